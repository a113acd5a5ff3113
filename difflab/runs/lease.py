"""The lease of a run: which process may write in its folder. It needs no lock of the file system.

A lease is a numbered file, ``.lease-000007``. The highest number holds the run; this is a fencing token. It
is created with O_CREAT | O_EXCL, so that one of several claims of a number succeeds, also on NFS.

    {"owner": ..., "host": "node3", "pid": 4242, "job": "lab/71", "restarts": 1, ...}
    beat 0000000012

The first line says who holds it. The second line is a heartbeat that the holder counts up every 20 s, or
"released". Nobody but the holder writes into a lease, and never with O_CREAT: a deleted lease stays deleted.

**Claim.** The next number is created if the lease with the highest one was released, or if its process is
dead as far as this machine can tell, or if it is an earlier start of the same Slurm job. Otherwise the claim
looks at the file once a second. It fails as soon as the heartbeat changes, and takes over after 60 looks
without a change. No clock is read, so that it does not matter what the clocks of the machines say.

**Places.** A `Place` is where leases lie: a folder on a disk (`Disk`), or an object store (`runs/remote.py`).

**Fence.** A process checks its lease before every rename below the folder (`core.fence`). It stops with one
sentence if its lease is gone or a higher one exists. The process that takes over deletes the earlier lease,
then all temporary files of it, and only then looks which stages are done. A rename that was checked earlier
and that a slow disk carries out later therefore finds nothing to rename.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from socket import gethostname
from typing import Protocol

from difflab.core import fence
from difflab.core.errors import StoreError
from difflab.core.hashing import digest
from difflab.core.owner import Fate, Owner, this_process
from difflab.core.text import plain

NAME = re.compile(r"\.lease-([0-9]+)")
NAMED = ".lease-{:06d}"
BEAT_S = 20.0
"""Seconds between two heartbeats of a holder."""
LOOK_S = 1.0
"""Seconds between two looks of a claim at a lease that it cannot judge."""
LOOKS = 60
"""A lease is stale after this many looks without a change."""
WIDTH = 15
"""Bytes of the second line, whose length never changes: it is overwritten in place, also on a full disk."""


_held: set[str] = set()
"""The tokens of the leases that this process holds."""


class LeaseLost(StoreError):
    """Another process has taken over the run, so that this one has to stop."""


class Place(Protocol):
    """Where the leases of a run lie. `str` of it is its name in messages.

    Raises OSError or StoreError if the place cannot be reached.
    """

    def identity(self) -> tuple[str, int]:
        """Hash of the place's name, and a number that differs in a copy under another name."""

    def numbers(self) -> list[int]:
        """The numbers of the leases, in any order."""

    def read(self, number: int) -> bytes | None:
        """The content of a lease; None = there is no such lease any more."""

    def create(self, number: int, content: bytes) -> bool:
        """Create a lease; False if another process has created it."""

    def renew(self, number: int, token: str, state: str) -> None:
        """Overwrite the second line of a lease that holds `token`."""

    def delete(self, number: int) -> None:
        """Delete a lease that may be gone already."""


@dataclass(frozen=True)
class Disk:
    """The leases in a folder, which exists."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def identity(self) -> tuple[str, int]:
        return digest(os.path.realpath(self.folder)), self.folder.stat().st_ino

    def numbers(self) -> list[int]:
        with suppress(FileNotFoundError):
            return [int(match[1]) for match in map(NAME.fullmatch, os.listdir(self.folder)) if match]
        return []

    def read(self, number: int) -> bytes | None:
        try:
            return path_of(self.folder, number).read_bytes()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return None
            raise

    def create(self, number: int, content: bytes) -> bool:
        try:
            handle = os.open(path_of(self.folder, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(handle)  # a failure of power would leave it unreadable
        except OSError:
            with suppress(OSError):  # an unreadable lease would keep the folder for a minute
                self.delete(number)
            raise
        return True

    def renew(self, number: int, token: str, state: str) -> None:
        """In place. A file that is gone is not made again."""
        handle = os.open(path_of(self.folder, number), os.O_RDWR)
        try:
            first = os.read(handle, 4096).split(b"\n", 1)[0]
            if token.encode() in first:
                os.pwrite(handle, state_line(state), len(first) + 1)
        finally:
            os.close(handle)

    def delete(self, number: int) -> None:
        path_of(self.folder, number).unlink(missing_ok=True)


def place_of(folder: Path | Place) -> Place:
    """The place of the leases of a folder."""
    return Disk(folder) if isinstance(folder, Path) else folder


@dataclass(frozen=True)
class Holder:
    """The first line of a lease: the process that made it.

    Attributes:
        owner: the tag of the process, see `Owner`.
        host, pid: for messages.
        job: cluster and id of its Slurm job; "" = none. A job that is requeued keeps its id.
        label: the job as squeue shows it, such as 70_3 for a task of an array.
        restarts: how often Slurm has started the job again.
        folder: hash of the path and inode of the folder, by which a copy of it is recognised.
        token: 16 random hex digits.
    """

    owner: str
    host: str
    pid: int
    job: str
    label: str
    restarts: int
    folder: tuple[str, int]
    token: str

    @classmethod
    def here(cls, folder: Path | Place) -> Holder:
        """This process as the holder of `folder`."""
        env = os.environ.get
        job, array, restarts = env("SLURM_JOB_ID", ""), env("SLURM_ARRAY_JOB_ID"), env("SLURM_RESTART_COUNT")
        label = f"{array}_{env('SLURM_ARRAY_TASK_ID', '')}" if array else job
        if job:
            job = f"{env('SLURM_CLUSTER_NAME', '')}/{job}"
        count = int(restarts) if restarts and restarts.isdecimal() else 0
        owner = this_process()
        place, token = place_of(folder).identity(), os.urandom(8).hex()
        return cls(owner.tag, gethostname(), owner.pid, job, label, count, place, token)

    @classmethod
    def read(cls, content: bytes) -> Holder | None:
        """The holder in the content of a lease; None if the content is truncated or no lease."""
        try:
            line = json.loads(content.split(b"\n", 1)[0])
            path, inode = line["folder"]
            known = {each.name: line[each.name] for each in fields(cls)}
            holder = cls(**{**known, "folder": (str(path), int(inode)), "restarts": int(line["restarts"])})
            return holder if Owner.from_tag(holder.owner) else None
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def __str__(self) -> str:
        job = ""
        if self.label:
            job = f", Slurm job {self.label}" + f" (restart {self.restarts})" * bool(self.restarts)
        return f"process {self.pid} on {self.host}{job}"


@dataclass
class Lease:
    """The claim of this process on a folder, or the part that a process has in the claim of its main process.

    `claim` and `follow` make one. Forked children have a part in the lease of their parent.

    Attributes:
        folder, number: the folder, or another place of leases, and the number of the lease.
        token: as in the file.
        holder: the process that renews and releases the lease; None = another one.
    """

    folder: Path | Place
    number: int
    token: str
    holder: Owner | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    writing: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        """Raise LeaseLost unless this lease exists and no later one does."""
        # NFS clients keep listings for up to a minute. Opening the file asks the server in any case.
        place = place_of(self.folder)
        newest, content = highest(place), place.read(self.number)
        if newest <= self.number and content is not None and self.token.encode() in content:
            return
        if newest <= self.number:
            name = f"{self.folder}/{NAMED.format(self.number)}"
            raise LeaseLost(
                f"the lease {name} is gone, so the folder was moved, deleted or taken over; this process "
                "stops, and the same command resumes"
            )
        other = Holder.read(place.read(newest) or b"") or "another process"
        raise LeaseLost(
            f"{self.folder} was taken over by {other}, because this process had not renewed its lease; this "
            "process stops, and the other one goes on"
        )

    def release(self) -> None:
        """Give the folder back. Its last lease stays as a file, so that numbers never repeat."""
        if isinstance(self.folder, Path):
            fence.unguard(self.folder)
        if self.holder != this_process():
            return
        with self.writing:
            self.ended.set()
            with suppress(OSError, StoreError):
                place_of(self.folder).renew(self.number, self.token, "released")
        _held.discard(self.token)

    def renew(self) -> None:
        """Count the heartbeat up until the lease is released or lost."""
        count = 0
        while not self.ended.wait(BEAT_S):
            count += 1
            with self.writing, suppress(OSError, StoreError):  # what fails now may work at the next beat
                if self.ended.is_set() or highest(self.folder) > self.number:
                    return
                place_of(self.folder).renew(self.number, self.token, f"beat {count:09d}")


def path_of(folder: Path, number: int) -> Path:
    """The file of the lease with this number."""
    return folder / NAMED.format(number)


def state_line(state: str) -> bytes:
    """The second line of a lease, of a fixed length."""
    return f"{state:{WIDTH - 1}}\n".encode()


def highest(folder: Path | Place) -> int:
    """The highest number of a lease in `folder`; 0 = there is none."""
    return max(place_of(folder).numbers(), default=0)


def claim(folder: Path | Place, say: Callable[[str], None] | None = None) -> Lease:
    """Claim `folder`, which exists, or another place. Until `release`, renames below a folder are checked.

    Args:
        say: gets a sentence if the claim has to wait; None = it is printed on stderr.

    Raises:
        StoreError: another process works in the folder.
        OSError: the folder cannot be written.
    """
    place = place_of(folder)
    watched, before, looks, missing = -1, b"", 0, 0
    while True:
        number = highest(folder)
        content = place.read(number) if number else state_line("released")
        if content is None and missing < 20:  # its successor has deleted it since it was listed
            missing += 1
            time.sleep(0.01)
            continue
        content = content or b""
        fate = fate_of(folder, content)
        same = watched == number
        if fate is Fate.RUNS or (fate is Fate.UNKNOWN and same and content != before):
            raise in_use(folder, Holder.read(content))
        if fate is Fate.DEAD or (same and looks >= LOOKS):
            lease = _create(folder, number + 1)
            if lease is not None:
                return lease
            continue
        if not same:
            (say or _tell)(
                f"{folder} is claimed by {Holder.read(content) or 'an unreadable lease'}: waiting up to "
                f"{LOOKS * LOOK_S:.0f} s to see whether that process is alive"
            )
            watched, before, looks = number, content, 0
        looks += 1
        time.sleep(LOOK_S)


def fate_of(folder: Path | Place, content: bytes) -> Fate:
    """Whether the holder of a lease still works, from the content of the lease. DEAD = the folder is free."""
    if content.rstrip().endswith(b"released"):
        return Fate.DEAD
    holder = Holder.read(content)
    if holder is None:
        return Fate.UNKNOWN
    here, owner = Holder.here(folder), Owner.from_tag(holder.owner)
    if holder.job and holder.job == here.job and holder.restarts < here.restarts:
        return Fate.DEAD  # it may live on a node that Slurm has lost, and then stops at its next rename
    if owner is None or owner.machine != this_process().machine:
        return Fate.UNKNOWN
    copied = holder.folder[0] != here.folder[0] and holder.folder[1] != here.folder[1]
    forgotten = owner == this_process() and holder.token not in _held  # by a claim that was interrupted
    return Fate.DEAD if copied or forgotten else owner.fate()


def holder_of(folder: Path) -> Holder | None:
    """The process that works in `folder`, as far as this machine can tell; None = there is none."""
    number = highest(folder)
    content = place_of(folder).read(number) if number else None
    if content is None or fate_of(folder, content) is Fate.DEAD:
        return None
    return Holder.read(content)


def follow(folder: Path, number: int, token: str) -> Lease:
    """Take part in the lease of the main process: renames below `folder` are checked here too."""
    lease = Lease(folder, number, token)
    fence.guard(folder, lease)
    return lease


def in_use(folder: Path | Place, holder: Holder | None) -> StoreError:
    """The error of a claim on a folder in which another process works."""
    who = f" ({holder})" if holder else ""
    return StoreError(
        f"another process is working on {folder}; wait for it, or choose another folder with --out{who}"
    )


def _create(folder: Path | Place, number: int) -> Lease | None:
    """Create the lease of this number; None if another process was faster."""
    place, holder = place_of(folder), Holder.here(folder)
    lease = Lease(folder, number, holder.token, this_process())
    _held.add(holder.token)
    if not place.create(number, f"{json.dumps(asdict(holder))}\n".encode() + state_line("beat 000000000")):
        _held.discard(holder.token)
        return None
    try:
        numbers = place.numbers()
        if max(numbers, default=0) > number:  # the lease before was judged from an old listing
            _held.discard(holder.token)
            place.delete(number)
            return None
        for earlier in numbers:
            if earlier < number:
                place.delete(earlier)
    except OSError:
        lease.release()
        raise
    if isinstance(folder, Path):
        fence.guard(folder, lease)
    threading.Thread(target=lease.renew, name="difflab-lease", daemon=True).start()
    return lease


def _tell(sentence: str) -> None:
    print(plain(sentence), file=sys.stderr, flush=True)


def clear(folder: Path, number: int) -> None:
    """Delete temporary files below `folder` that no living process can rename, see `fence.is_leftover`.

    Folders with a lease of their own, such as those of labs, are left to their own claim.
    """
    for place, folders, files in os.walk(folder):
        if Path(place) != folder and any(map(NAME.fullmatch, files)):
            folders.clear()
            continue
        for name in [*folders, *files]:
            if name.startswith(".") and "tmp" in name and fence.is_leftover(name, number):
                fence.remove(Path(place) / name)
        folders[:] = [name for name in folders if not name.startswith(".")]
