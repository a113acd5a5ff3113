"""One process writes into a run, whatever happens to processes, nodes, clocks and files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from difflab.config import parse
from difflab.core import fence
from difflab.core.errors import StoreError
from difflab.core.files import write_text
from difflab.core.owner import this_process
from difflab.loop.chain import run_chain
from difflab.runs import lease
from difflab.runs.lease import Holder, LeaseLost, claim
from difflab.runs.run import EcosystemRun, Run

HERE = this_process()
DEAD = replace(HERE, pid=2**22 + 1)
ELSEWHERE = replace(HERE, machine="000000")
CHAIN: dict[str, Any] = {
    "generations": 2,
    "data": {"source": "exact", "train_size": 20},
    "model": {"family": "gaussian", "replicates": 3},
    "sample": {"count": 20},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A claim looks every 10 ms; a lease is stale after 20 looks; a holder renews it every 20 ms."""
    monkeypatch.setattr(lease, "LOOK_S", 0.01)
    monkeypatch.setattr(lease, "LOOKS", 20)
    monkeypatch.setattr(lease, "BEAT_S", 0.02)
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_CLUSTER_NAME"):
        monkeypatch.delenv(name, raising=False)


def held_by(folder: Path, number: int = 1, state: str = "beat 000000001", **changes: Any) -> Path:
    """A lease of somebody else: by default of a process on another machine."""
    holder = replace(Holder.here(folder), **{"owner": ELSEWHERE.tag, "host": "n7", "pid": 4242, **changes})
    path = lease.path_of(folder, number)
    path.write_bytes(f"{json.dumps(asdict(holder))}\n".encode() + lease.state_line(state))
    return path


def leases(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith(".lease-"))


@contextmanager
def renewed(path: Path, act: Callable[[Path, int], None]) -> Iterator[None]:
    """Call `act` with the path and a counter every 20 ms, as another machine would."""
    ended = threading.Event()

    def beat() -> None:
        count = 1
        while not ended.wait(0.02):
            count += 1
            act(path, count)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def next_beat(path: Path, count: int) -> None:
    first = path.read_bytes().split(b"\n")[0]
    path.write_bytes(first + b"\n" + lease.state_line(f"beat {count:09d}"))


# ------------------------------------------------------------------------------------------------- one machine
def test_numbers_count_up_and_a_released_lease_stays(tmp_path):
    for number in (1, 2, 3):
        mine = claim(tmp_path)
        assert (mine.number, leases(tmp_path)) == (number, [f".lease-{number:06d}"])
        with pytest.raises(
            StoreError, match=rf"^another process is working on {tmp_path}; .*process {os.getpid()} on"
        ):
            claim(tmp_path)
        write_text(tmp_path / "a.txt", str(number))
        mine.release()
        assert lease.path_of(tmp_path, number).read_bytes().endswith(b"\nreleased      \n")


def test_a_lease_is_renewed_and_a_deleted_one_is_never_made_again(tmp_path):
    mine, contents = claim(tmp_path), set()
    until = time.monotonic() + 20
    while len(contents) < 3 and time.monotonic() < until:
        contents.add(lease.path_of(tmp_path, mine.number).read_bytes())
        time.sleep(0.005)
    assert len(contents) == 3 and len({len(content) for content in contents}) == 1
    lease.path_of(tmp_path, mine.number).unlink()
    time.sleep(0.1)
    with pytest.raises(
        LeaseLost, match=r"is gone, so the folder was moved, deleted or taken over; this process stops"
    ):
        write_text(tmp_path / "a.txt", "late")
    mine.release()
    assert leases(tmp_path) == [] and not (tmp_path / "a.txt").exists()


@pytest.mark.parametrize("owner", [DEAD, replace(HERE, boot="000000"), replace(HERE, start=HERE.start + 1)])
def test_the_lease_of_a_dead_process_is_taken_over_at_once(tmp_path, owner, monkeypatch):
    held_by(tmp_path, 41, owner=owner.tag)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it need not wait"))
    mine = claim(tmp_path)
    assert leases(tmp_path) == [".lease-000042"]
    mine.release()


def test_a_claim_that_was_interrupted_and_a_copied_folder_are_free(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it need not wait"))
    held_by(tmp_path, owner=HERE.tag)  # of this process, which knows nothing of it
    mine = claim(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    copied = claim(tmp_path / "copy")
    assert copied.number == 3
    mine.check()
    copied.release()
    mine.release()


# -------------------------------------------------------------------------------------------- another machine
@pytest.mark.parametrize("years", [-10, 0, 10])
def test_what_another_machine_renews_is_left_alone_whatever_its_clock_says(tmp_path, years, monkeypatch):
    def wrong_clock(path: Path, count: int) -> None:
        next_beat(path, count)
        os.utime(path, (at, at))

    at = time.time() + years * 3e7
    monkeypatch.setattr(time, "time", lambda: pytest.fail("a clock was read"))
    path, said = held_by(tmp_path, job="lab/70", label="70_3", restarts=2), []
    with (
        renewed(path, wrong_clock),
        pytest.raises(StoreError, match=r"--out \(process 4242 on n7, Slurm job 70_3 \(restart 2\)\)$"),
    ):
        claim(tmp_path, said.append)
    assert said == [
        f"{tmp_path} is claimed by process 4242 on n7, Slurm job 70_3 (restart 2): waiting up to 0 s to see whether that process is alive"
    ]
    os.utime(path, (at, at))
    claim(tmp_path, said.append).release()  # the other machine is lost
    assert leases(tmp_path) == [".lease-000002"] and len(said) == 2


def test_a_process_that_is_paused_between_two_looks_looks_again(tmp_path, monkeypatch):
    """The holder has renewed its lease meanwhile, and 60 s have passed on every clock."""
    path, sleep = held_by(tmp_path), time.sleep

    def paused(seconds: float) -> None:
        sleep(0.3)
        next_beat(path, 99)

    monkeypatch.setattr(time, "sleep", paused)
    with pytest.raises(StoreError, match="another process is working"):
        claim(tmp_path, lambda text: None)


def test_a_lease_that_is_released_while_one_waits_is_free(tmp_path, capsys):
    path = held_by(tmp_path)
    threading.Timer(0.05, lambda: held_by(tmp_path, state="released")).start()
    mine = claim(tmp_path)
    assert mine.number == 2 and "is claimed by process 4242 on n7" in capsys.readouterr().err
    assert not path.exists()
    mine.release()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00" * 9,
        b"[" * 5000,
        b'{"owner": 3}\n',
        b"null\n",
        b'{"owner": "x", "folder": 1}\nbeat',
    ],
)
def test_an_unreadable_lease_is_taken_over_after_the_wait_and_not_before(tmp_path, content):
    path, said = lease.path_of(tmp_path, 8), []
    path.write_bytes(content)
    with (
        renewed(path, lambda path, count: path.write_bytes(content + bytes(count))),
        pytest.raises(StoreError, match="another process is working"),
    ):
        claim(tmp_path, said.append)
    path.write_bytes(content)
    mine = claim(tmp_path, said.append)
    assert mine.number == 9 and all("is claimed by an unreadable lease" in text for text in said)
    mine.release()


# ------------------------------------------------------------------------------------------------------- Slurm
def slurm(monkeypatch: pytest.MonkeyPatch, job: str, restarts: int | None, cluster: str = "lab") -> None:
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_CLUSTER_NAME", cluster)
    if restarts is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))


def test_a_job_that_slurm_started_again_takes_over_at_once_and_the_old_step_stops(tmp_path, monkeypatch):
    slurm(monkeypatch, "71", None)
    old = claim(tmp_path)  # as a step that lives on, on a lost node
    slurm(monkeypatch, "71", 1)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it need not wait"))
    new = claim(tmp_path)
    fence.guard(tmp_path, old)
    with pytest.raises(
        LeaseLost, match=r"was taken over by process \d+ on .*, Slurm job 71 \(restart 1\), because"
    ):
        write_text(tmp_path / "a.txt", "late")
    fence.guard(tmp_path, new)
    write_text(tmp_path / "a.txt", "mine")
    slurm(monkeypatch, "71", 0)
    with pytest.raises(StoreError, match="another process is working"):  # the older start comes late
        claim(tmp_path)
    for job, cluster in (("72", "lab"), ("71", "other")):
        slurm(monkeypatch, job, 5, cluster)
        with pytest.raises(StoreError, match="another process is working"):
            claim(tmp_path)
    old.release()
    new.release()


# ------------------------------------------------------------------------------------------- several claimants
RACE = """
import os, sys, time
from pathlib import Path
from difflab.runs import lease
from difflab.core.errors import StoreError
lease.LOOK_S, stale = 0.002, Path(sys.argv[1]).read_bytes()
for number in range(int(sys.argv[3])):
    folder = Path(sys.argv[2]) / str(number)
    folder.mkdir()
    (folder / ".lease-000005").write_bytes(stale)
    ready, go = os.pipe()
    children = []
    for _ in range(4):
        if (pid := os.fork()) == 0:
            os.close(go)
            try:
                lease.claim(folder, lambda text: None)
                (folder / f"won-{os.getpid()}").touch()
            except StoreError:
                (folder / f"lost-{os.getpid()}").touch()
            os.read(ready, 1)  # it holds the lease until all have tried
            os._exit(0)
        children.append(pid)
    while len([name for name in os.listdir(folder) if name[0] != "."]) < 4:
        time.sleep(0.001)
    os.close(go)
    for pid in children:
        os.waitpid(pid, 0)
"""


def test_one_of_several_processes_gets_a_stale_lease(tmp_path):
    stale = held_by(tmp_path, owner=DEAD.tag)
    (tmp_path / "runs").mkdir()
    subprocess.run([sys.executable, "-c", RACE, stale, tmp_path / "runs", "50"], check=True, timeout=120)
    for folder in (tmp_path / "runs").iterdir():
        names = sorted(name.split("-")[0] for name in os.listdir(folder))
        assert names == [".lease", "lost", "lost", "lost", "won"] and leases(folder) == [".lease-000006"]


def test_one_of_several_threads_gets_a_stale_lease(tmp_path):
    for number in range(30):
        folder, won = tmp_path / str(number), []
        folder.mkdir()
        held_by(folder, owner=DEAD.tag)

        def attempt(folder: Path = folder, won: list[Any] = won) -> None:
            try:
                won.append(claim(folder, lambda text: None))
            except StoreError:
                won.append(None)

        threads = [threading.Thread(target=attempt) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([each for each in won if each]) == 1 and leases(folder) == [".lease-000002"]
        next(each for each in won if each).release()


def test_a_claim_from_an_old_listing_gives_way(tmp_path):
    """The lease 4 that it judged was followed by others."""
    held_by(tmp_path, 9)
    assert lease._create(tmp_path, 5) is None and leases(tmp_path) == [".lease-000009"]


# --------------------------------------------------------------------------------------------- temporary files
def test_a_claim_deletes_the_leftovers_of_dead_processes_only(tmp_path):
    run = Run.create(tmp_path, parse(CHAIN))
    run.close()
    gone = [f".a.{DEAD.tag}.tmp", f".a.{ELSEWHERE.tag}-claim1.tmp", ".b.123.tmp", "gen-000/.model.tmp"]
    kept = [f".a.{ELSEWHERE.tag}.tmp", f".a.{HERE.tag}.tmp", "gen-000/.model.notes"]
    for name in [*gone, *kept]:
        (tmp_path / name).mkdir(parents=True)
    Run.create(tmp_path, parse(CHAIN)).close()
    assert [(tmp_path / name).exists() for name in [*gone, *kept]] == [False] * 4 + [True] * 3


def test_the_leftovers_in_a_lab_are_judged_by_the_leases_of_the_lab(tmp_path):
    config = parse({**CHAIN, "ecosystem": {"labs": 2}})
    for _ in range(3):
        EcosystemRun.create(tmp_path, config).close()
    lab = tmp_path / "lab-0"
    shutil.rmtree(lab)
    Run.create(lab, config.labs()[0]).close()
    alive = lab / f".a.{ELSEWHERE.tag}-claim1.tmp"
    alive.touch()
    lease.clear(tmp_path, 4)
    assert alive.exists()
    lease.clear(lab, 2)
    assert not alive.exists()


def test_all_processes_of_a_run_stop_when_it_is_taken_over(tmp_path):
    config = parse({**CHAIN, "ecosystem": {"labs": 2}})
    main, other = EcosystemRun.create(tmp_path, config), EcosystemRun(tmp_path, config)
    claims = main.claims
    assert claims == [(1, token) for _, token in claims if token]
    main.close()
    other.follow(claims)  # one of the other processes of accelerate, in a process of its own
    write_text(other.labs[1].path / "a.txt", "mine")
    held_by(tmp_path / "lab-1", 2)
    write_text(tmp_path / "lab-0" / "a.txt", "mine")
    with pytest.raises(LeaseLost, match="taken over by process 4242 on n7"):
        write_text(other.labs[1].path / "a.txt", "late")
    other.close()
    write_text(tmp_path / "lab-1" / "a.txt", "of a reader")


# ----------------------------------------------------------------------------------------------- whole chains
HOLDER = """
import json, os, signal, sys
from difflab.config import parse
from difflab.core import fence
from difflab.core.errors import StoreError
from difflab.loop.chain import run_chain
from difflab.runs import lease
from pathlib import Path

lease.BEAT_S, config, home = 0.02, parse(json.loads(sys.argv[1])), Path(sys.argv[2])

def at(name, signal_number, module, attribute):
    call = getattr(module, attribute)
    def patched(temporary, path):
        if str(path).endswith(name):
            setattr(module, attribute, call)
            os.kill(os.getpid(), signal_number)
        call(temporary, path)
    setattr(module, attribute, patched)

for run, name, module, attribute in (
    ("before-check", "gen-001/sampled.json", fence, "put"),
    ("after-check", "gen-001/model", os, "replace"),
):
    at(name, signal.SIGSTOP, module, attribute)
    try:
        run_chain(config, home / run, plots=False)
    except StoreError as error:
        print(error, flush=True)
at("gen-001/selected.parquet", signal.SIGKILL, fence, "put")
run_chain(config, home / "killed", plots=False)
"""


def content(path: Path) -> dict[str, bytes]:
    """Every file of a run, but its record of time and its leases."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "timings.jsonl" and not file.name.startswith(".lease-")
    }


def test_a_stopped_holder_is_replaced_and_stops_and_a_killed_one_is_resumed(tmp_path):
    """The holder and this process are two processes on one run. The holder is paused (SIGSTOP) at a rename,
    before its lease is checked and after it, as by a disk that stalls.
    """
    config = parse(CHAIN)
    run_chain(config, tmp_path / "whole", plots=False)
    whole = content(tmp_path / "whole")
    words = [json.dumps(config.model_dump(mode="json")), str(tmp_path)]
    with subprocess.Popen([sys.executable, "-c", HOLDER, *words], stdout=-1, text=True) as holder:
        assert holder.stdout
        process = psutil.Process(holder.pid)
        for name in ("before-check", "after-check"):
            until = time.monotonic() + 120
            while process.status() != psutil.STATUS_STOPPED and time.monotonic() < until:
                time.sleep(0.01)
            run_chain(config, tmp_path / name, plots=False)
            assert content(tmp_path / name) == whole
            holder.send_signal(signal.SIGCONT)
            line = holder.stdout.readline()
            assert f"{tmp_path / name} was taken over by process {os.getpid()} on" in line
            assert "this process stops, and the other one goes on" in line
            assert content(tmp_path / name) == whole
        assert holder.wait(60) == -signal.SIGKILL
    begun = time.monotonic()
    assert len(content(tmp_path / "killed")) < len(whole)
    run_chain(config, tmp_path / "killed", plots=False)
    assert content(tmp_path / "killed") == whole and time.monotonic() - begun < 10


def test_an_old_run_with_a_lock_is_opened_unless_its_lock_is_held(tmp_path):
    import fcntl

    Run.create(tmp_path, parse(CHAIN)).close()
    lease.path_of(tmp_path, 1).unlink()
    with open(tmp_path / ".lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(StoreError, match="another process is working on"):
            Run.create(tmp_path, parse(CHAIN))
    Run.create(tmp_path, parse(CHAIN)).close()


@pytest.mark.parametrize("number", [13, 28, 30])  # no permission, disk full, read-only
def test_a_folder_that_cannot_be_written_says_so(tmp_path, monkeypatch, number):
    def refused(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lease.os, "open", refused)
    with pytest.raises(StoreError, match=f"cannot write to .*{os.strerror(number)}; choose another folder"):
        Run.create(tmp_path / "run", parse(CHAIN))


@pytest.mark.parametrize("call", ["fdopen", "listdir"])
def test_a_claim_that_the_disk_refuses_leaves_the_folder_free(tmp_path, monkeypatch, call):
    """Neither an unreadable lease nor one of this process keeps others, or a second attempt, waiting."""
    claim(tmp_path).release()
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it need not wait"))
    real, calls = getattr(os, call), []

    def refused(*words: Any, **more: Any) -> Any:
        calls.append(words)
        if len(calls) < {"fdopen": 1, "listdir": 2}[call]:  # the first listing looks for the highest number
            return real(*words, **more)
        raise OSError(5, os.strerror(5))

    with monkeypatch.context() as patch:
        patch.setattr(lease.os, call, refused)
        with pytest.raises(OSError, match=os.strerror(5)):
            claim(tmp_path)
    claim(tmp_path).release()
