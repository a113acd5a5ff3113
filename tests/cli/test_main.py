"""The command line itself: help, errors, a full disk. What only a process of its own can show is run as one."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from cli_runs import (
    BIN,
    DIGITS,
    MEMORISER,
    MLP,
    process,
)

from difflab.core.errors import DISK_FULL


# ------------------------------------------------------------------------------------------ real processes
def test_version_and_help_of_the_installed_command():
    version = process(BIN / "difflab", "--version")
    assert version.returncode == 0 and version.stdout.startswith("difflab 0.")
    text = process(sys.executable, "-m", "difflab", "--help")
    assert text.returncode == 0 and text.stderr == ""
    for word in (
        "difflab run digits",
        "accelerate launch",
        "export",
        "verify",
        "theory",
        "schema",
        "status",
        "plan",
    ):
        assert word in text.stdout


def test_help_waits_for_no_library():
    code = (
        "import sys, difflab.cli.main; print({'torch', 'pandas', 'pyarrow', 'matplotlib'} & set(sys.modules))"
    )
    assert process(sys.executable, "-c", code).stdout == "set()\n"


def test_an_error_is_one_line_and_no_traceback_in_a_real_process():
    done = process(BIN / "difflab", "run", "nothing.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "difflab: error: there is no config nothing.yaml; difflab presets lists those that come with difflab\n"
    )


def test_a_reader_that_goes_early_is_no_error(finished):
    shell = f"set -o pipefail; {BIN}/difflab schema | head -1; echo $?; {BIN}/difflab status {finished} | true; echo $?"
    done = process("bash", "-c", shell)
    assert done.stdout == "{\n0\n0\n" and done.stderr == ""


# ------------------------------------------------------------------------------------- trouble on the way
@pytest.fixture
def disk(tmp_path):
    """A file system of its own whose size can be set: (folder, resize)."""
    place = tmp_path / "disk"
    place.mkdir()
    made = (
        process("mount", "-t", "tmpfs", "-o", "size=4k", "difflab-test", place) if os.geteuid() == 0 else None
    )
    if made is None or made.returncode:
        pytest.skip("mounting a file system is not allowed here")

    def resize(size: str) -> None:
        assert process("mount", "-o", f"remount,size={size}", place).returncode == 0

    yield place, resize
    process("umount", place)


@pytest.mark.parametrize("size", ["4k", "12k", "40k", "90k", "400k"])
def test_on_a_full_disk_the_run_stops_and_goes_on_when_room_is_made(disk, size, refused, call, tmp_path):
    place, resize = disk
    argv = ["run", str(DIGITS), *MLP, "model.width=128", "train.images_seen=256", "measure.metrics=[]"]
    resize(size)
    line = refused(*argv, "--out", place / "run")
    assert "no space left on the disk" in line and "run the same command again to resume" in line
    resize("50m")
    assert call(*argv, "--out", place / "run")[0] == 0
    assert call("verify", place / "run")[0] == 0
    assert not list((place / "run").rglob("*.tmp"))


@pytest.mark.parametrize("nth", [2, 5, 9, 15])  # the first one is that of the lease
def test_without_space_at_any_write_the_run_resumes(nth, refused, call, monkeypatch):
    import errno

    from difflab.core import files as module

    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) >= nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "fsync", full)
        assert "no space left on the disk while writing out/" in refused(
            "run", DIGITS, *MEMORISER, "measure.metrics=[fd]", "--out", "out"
        )
    assert call("run", DIGITS, *MEMORISER, "measure.metrics=[fd]", "--out", "out")[0] == 0
    assert call("verify", "out")[0] == 0


def test_only_messages_of_a_full_disk_count_as_one():
    full = [
        "[Errno 28] No space left on device: 'x'",
        "I/O error: No space left on device (os error 28)",
        "12800 requested and 8064 written",
    ]
    assert all(DISK_FULL.search(text) for text in full)
    assert not DISK_FULL.search("3 images requested and none written")


def test_other_trouble_with_files_is_one_line_and_a_fault_of_ours_keeps_its_traceback(
    refused, call, monkeypatch
):
    from difflab.runs import run

    def denied(_: Any) -> None:
        raise PermissionError(13, "Permission denied", "somewhere/run.yaml")

    monkeypatch.setattr(run, "open_run", denied)
    assert refused("status", "x") == "difflab: error: somewhere/run.yaml: Permission denied"
    monkeypatch.setattr(run, "open_run", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("status", "x")
