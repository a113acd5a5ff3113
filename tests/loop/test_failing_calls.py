"""The n-th file call of a chain fails, or kills it: one line says so, and the same command goes on to the same bits."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from failing_calls import Server, missing
from faulty_chains import FaultyChain

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "it can run here")
TRIALS = 12
"""Calls that are made to fail, evenly spaced. benchmarks/faults.py makes every call fail."""

PLAIN = """
import os, sys
folder = os.environ["TRIAL"]
os.mkdir(folder + "/inner")
with open(folder + "/a", "w") as file:
    file.write("0123456789")
with open(folder + "/a") as file:  # reading is not counted
    file.read()
with open(os.path.dirname(folder) + "/elsewhere", "w") as file:  # nor is what is elsewhere
    file.write("x")
handle = os.open(folder + "/a", os.O_RDWR)
os.pwrite(handle, b"98", 0)
os.writev(handle, [b"1", b"2"])
os.fsync(handle)
os.ftruncate(handle, 4)
os.close(handle)
os.chdir(folder)
os.link("a", "b")
os.rename("b", "inner/c")
os.unlink("a")
"""
CALLS = [
    "mkdir inner",
    "open a",
    "write a",
    "open a",
    "pwrite a",
    "writev a",
    "fsync a",
    "ftruncate a",
    "link b",
]
CALLS += ["rename inner/c", "unlink a"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as made:
        yield made


def plain(
    server: Server, folder: Path, n: int = 0, fault: str = "EIO", lasting: bool = False
) -> tuple[int, int, list[str], str]:
    """Exit code, number of calls, those that failed (all with n = 0), and the last line on stderr."""
    trial = folder / f"{fault}-{n}-{lasting}"
    trial.mkdir()
    ended = server.run(PLAIN, trial, n, fault, lasting, env={"TRIAL": str(trial)})
    said = [line.replace(f"{trial.resolve()}/", "") for line in ended.said]
    return ended.code, ended.calls, said, (ended.stderr.splitlines() or [""])[-1]


def test_the_calls_below_a_folder_are_counted(server, tmp_path):
    assert plain(server, tmp_path) == (0, len(CALLS), CALLS, "")


@pytest.mark.parametrize("fault", ["EIO", "ENOSPC"])
def test_each_call_can_fail(server, tmp_path, fault):
    number = getattr(errno, fault)
    for n, call in enumerate(CALLS, 1):
        code, _, said, line = plain(server, tmp_path, n, fault)
        assert (code, said) == (1, [call]) and f"[Errno {number}] {os.strerror(number)}" in line
    assert plain(server, tmp_path, len(CALLS) + 1, fault)[0] == 0


def test_each_call_can_kill_and_a_write_leaves_half_of_its_bytes(server, tmp_path):
    for n, call in enumerate(CALLS, 1):
        assert plain(server, tmp_path, n, "kill") == (-9, 0, [call], "")
    assert (tmp_path / "kill-3-False" / "a").read_text() == "01234"
    assert not (tmp_path / "kill-9-False" / "b").exists()


def test_a_loss_of_power_empties_what_is_not_synced(server, tmp_path):
    for n in (1, 2):
        (tmp_path / str(n)).mkdir()
    script = """
import os
for name in ("synced", "renamed", "again"):
    with open(F + name, "w") as file:
        file.write(name)
        file.flush()
        if name != "renamed":
            os.fsync(file.fileno())
with open(F + "again", "a") as file:
    file.write("!")
os.rename(F + "renamed", F + "new")
os.mkdir(F + "end")
"""
    whole = server.run(f"F = {str(tmp_path / '1')!r} + '/'\n{script}", tmp_path / "1")
    ended = server.run(f"F = {str(tmp_path / '2')!r} + '/'\n{script}", tmp_path / "2", whole.calls, "power")
    assert ended.code == -9 and ended.said[0].startswith("mkdir")
    found = {path.name: path.read_text() for path in (tmp_path / "2").iterdir()}
    assert found == {"synced": "synced", "new": "", "again": ""}


def test_a_broken_disk_stays_broken_and_a_full_one_still_deletes(server, tmp_path):
    script = "import os\nfor act in (os.rename, os.link):\n    try:\n        act(F + '/a', F + '/b')\n    except OSError: pass\nos.unlink(F + '/a')"
    for fault, failed in (("EIO", ["rename", "link", "unlink"]), ("ENOSPC", ["rename", "link"])):
        trial = tmp_path / fault
        trial.mkdir()
        (trial / "a").touch()
        ended = server.run(f"F = {str(trial)!r}\n{script}", trial, 1, fault, lasting=True)
        assert [line.split()[0] for line in ended.said] == failed
        assert (trial / "a").exists() == (fault == "EIO") == bool(ended.code)


@pytest.fixture(scope="module")
def chain(server: Server, tmp_path_factory: pytest.TempPathFactory) -> FaultyChain:
    return FaultyChain(server, tmp_path_factory.mktemp("chains"), "gaussian")


@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_chain_goes_on_after_a_call_that_failed(chain, trial):
    fault = ("EIO", "ENOSPC", "kill", "power")[trial % 4]
    n = 1 + (2 * trial + 1) * len(chain.calls) // (2 * TRIALS)
    chain.fresh()
    ended = chain.start(n, fault=fault, lasting=trial % 8 > 3)
    print(n, fault, ended)
    assert ended.said
    if fault in ("kill", "power"):
        assert ended.code == -9 and not list(chain.half_run())
    else:
        assert not list(chain.after_fault(ended))
    assert not list(chain.resumed())


@pytest.fixture(scope="module")
def network(server: Server, tmp_path_factory: pytest.TempPathFactory) -> FaultyChain:
    """Its weights are written by diffusers and safetensors."""
    return FaultyChain(server, tmp_path_factory.mktemp("networks"), "pixel-mlp")


def test_a_library_that_writes_a_model_is_refused_in_one_line(network):
    """Libraries raise errors of their own types."""
    network.fresh()
    for place in (".rehearsal.", ".model."):
        for call in ("ftruncate", "write"):  # of the weights, and of a config
            numbers = [
                n for n, said in enumerate(network.calls, 1) if said.startswith(call) and place in said
            ]
            ended = network.start(numbers[0], fault="EIO")
            assert ended.code == 2 and "Input/output error" in ended.stderr
            assert not list(network.after_fault(ended))
            network.fresh()


def test_a_loss_of_power_right_after_a_training_costs_nothing(network):
    """The weights are on the disk, and the checkpoint, which was to be deleted next, goes when the run goes on."""
    network.fresh()
    renamed = f"rename {network.run.resolve() / 'gen-000/model'}"
    ended = network.start(network.calls.index(renamed) + 2, fault="power")
    assert ended.code == -9 and ended.said == [
        f"unlink {network.run.resolve() / 'gen-000/checkpoint.safetensors'}"
    ]
    assert not list(network.half_run()) and not list(network.resumed())
