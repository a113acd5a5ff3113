"""Owners are told apart by machine, boot, process id and start; what cannot be known is said to be unknown."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from difflab.core import owner
from difflab.core.owner import TAG, Fate, Owner, this_process


def test_this_process_runs_and_its_tag_is_read_back():
    here = this_process()
    assert here.fate() is Fate.RUNS and here.pid == os.getpid()
    assert re.fullmatch(TAG, here.tag) and Owner.from_tag(here.tag) == here
    booted = time.time() - psutil.Process().create_time()  # an independent reading, in whole seconds
    ticks = time.clock_gettime(time.CLOCK_BOOTTIME) - here.start / os.sysconf("SC_CLK_TCK")
    assert abs(booted - ticks) < 2


@pytest.mark.parametrize(
    "text", ["", "a-b-1-2", "0123456-012345-1-2", "012345-012345-1", "012345-012345-x-2"]
)
def test_what_is_no_tag_has_no_owner(text):
    assert Owner.from_tag(text) is None


def test_a_process_that_cannot_be_seen_is_dead_or_unknown():
    here = this_process()
    assert replace(here, start=here.start + 1).fate() is Fate.DEAD  # its id was given to this process later
    assert replace(here, boot="000000").fate() is Fate.DEAD  # before the machine was started again
    assert replace(here, machine="000000").fate() is Fate.UNKNOWN
    assert replace(here, pid=2**22 + 1).fate() is Fate.DEAD  # Linux has no such process id


def test_a_stopped_process_is_unknown_and_a_killed_one_is_dead():
    with subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1) as child:
        assert child.stdout and child.stdout.readline()
        other = replace(this_process(), pid=child.pid, start=owner._state(child.pid)[1])
        assert other.fate() is Fate.RUNS
        for sent, fate in (
            (signal.SIGSTOP, Fate.UNKNOWN),
            (signal.SIGCONT, Fate.RUNS),
            (signal.SIGKILL, Fate.DEAD),
        ):
            child.send_signal(sent)
            until = time.monotonic() + 20
            while other.fate() is not fate and time.monotonic() < until:
                time.sleep(0.005)
            assert other.fate() is fate  # a zombie is dead before its parent asks for it


def test_without_proc_only_missing_processes_are_known(monkeypatch, tmp_path):
    monkeypatch.setattr(owner, "PROC", tmp_path / "none")
    here = this_process()
    assert here.fate() is Fate.UNKNOWN and replace(here, pid=2**22 + 1).fate() is Fate.DEAD
