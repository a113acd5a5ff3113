"""Which process owns a file, and whether that process still runs, as far as this machine can tell."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

PROC = Path("/proc")
TAG = r"[0-9a-f]{6}-[0-9a-f]{6}-[0-9]+-[0-9]+"
"""Regular expression of `Owner.tag`."""


class Fate(Enum):
    """What this machine knows about a process."""

    RUNS = "runs"
    DEAD = "dead"
    UNKNOWN = "unknown"
    """It ran on another machine, or it is stopped (SIGSTOP), or this system has no /proc."""


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        machine: hash of host name, machine id and PID namespace. Containers on one host differ in it.
        boot: hash of the boot id, which the kernel draws anew at every start.
        pid: the process id.
        start: the start of the process in clock ticks since boot, which tells processes with one id apart.
            0 = this system does not say.
    """

    machine: str
    boot: str
    pid: int
    start: int

    @property
    def tag(self) -> str:
        """The owner as a part of a file name."""
        return f"{self.machine}-{self.boot}-{self.pid}-{self.start}"

    @classmethod
    def from_tag(cls, tag: str) -> Owner | None:
        """The owner with this tag; None if the text is no tag."""
        if not re.fullmatch(TAG, tag):
            return None
        machine, boot, pid, start = tag.split("-")
        return cls(machine, boot, int(pid), int(start))

    def fate(self) -> Fate:
        """Whether the process runs. That of another machine is unknown: no clock and no network is asked."""
        here = this_process()
        if self.machine != here.machine:
            return Fate.UNKNOWN
        if self.boot != here.boot:
            return Fate.DEAD
        if not PROC.exists():
            return _fate_without_proc(self.pid)
        state, start = _state(self.pid)
        if state in ("", "Z", "X") or start != self.start:
            return Fate.DEAD
        return Fate.UNKNOWN if state in "Tt" else Fate.RUNS


def this_process() -> Owner:
    """This process as an owner. It differs in a forked child."""
    return _owner(os.getpid())


@cache
def _owner(pid: int) -> Owner:
    namespace = ""
    with suppress(OSError):
        namespace = os.readlink(PROC / "self" / "ns" / "pid")
    machine = (socket.gethostname(), _read("/etc/machine-id"), namespace)
    return Owner(_short(*machine), _short(_read("/proc/sys/kernel/random/boot_id")), pid, _state(pid)[1])


def _state(pid: int) -> tuple[str, int]:
    """The state of a process of this machine as one letter, and its start. ("", 0) = there is none."""
    line = _read(f"/proc/{pid}/stat")
    fields = line.rpartition(")")[2].split()  # the name of a program may contain spaces and brackets
    return (fields[0], int(fields[19])) if len(fields) > 19 else ("", 0)


def _fate_without_proc(pid: int) -> Fate:
    """On systems without /proc a missing process is dead, and any other one may have taken over its id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return Fate.DEAD
    except OSError:
        pass
    return Fate.UNKNOWN


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _short(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:6]
