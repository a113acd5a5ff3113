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

from difflab.core import fence
from difflab.core.errors import StoreError
from difflab.core.hashing import digest
from difflab.core.owner import Fate, Owner, this_process
from difflab.core.text import plain

NAME = re.compile(r"\.lease-([0-9]+)")
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
    def here(cls, folder: Path) -> Holder:
        """This process as the holder of `folder`."""
        env = os.environ.get
        job, array, restarts = env("SLURM_JOB_ID", ""), env("SLURM_ARRAY_JOB_ID"), env("SLURM_RESTART_COUNT")
        label = f"{array}_{env('SLURM_ARRAY_TASK_ID', '')}" if array else job
        if job:
            job = f"{env('SLURM_CLUSTER_NAME', '')}/{job}"
        place = (digest(os.path.realpath(folder)), folder.stat().st_ino)
        count = int(restarts) if restarts and restarts.isdecimal() else 0
        owner = this_process()
        return cls(owner.tag, gethostname(), owner.pid, job, label, count, place, os.urandom(8).hex())

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
        folder, number: the folder and the number of its lease.
        token: as in the file.
        holder: the process that renews and releases the lease; None = another one.
    """

    folder: Path
    number: int
    token: str
    holder: Owner | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    writing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def path(self) -> Path:
        """The file of the lease."""
        return path_of(self.folder, self.number)

    def check(self) -> None:
        """Raise LeaseLost unless this lease exists and no later one does."""
        # NFS clients keep listings for up to a minute. Opening the file asks the server in any case.
        newest, content = highest(self.folder), _content(self.path)
        if newest <= self.number and content is not None and self.token.encode() in content:
            return
        if newest <= self.number:
            raise LeaseLost(
                f"the lease {self.path} is gone, so the folder was moved, deleted or taken over; this "
                "process stops, and the same command resumes"
            )
        other = Holder.read(_content(path_of(self.folder, newest)) or b"") or "another process"
        raise LeaseLost(
            f"{self.folder} was taken over by {other}, because this process had not renewed its lease; this "
            "process stops, and the other one goes on"
        )

    def release(self) -> None:
        """Give the folder back. Its last lease stays as a file, so that numbers never repeat."""
        fence.unguard(self.folder)
        if self.holder != this_process():
            return
        with self.writing:
            self.ended.set()
            with suppress(OSError):
                self._write("released")
        _held.discard(self.token)

    def renew(self) -> None:
        """Count the heartbeat up until the lease is released or lost."""
        count = 0
        while not self.ended.wait(BEAT_S):
            count += 1
            with self.writing, suppress(OSError):  # a disk that fails now may work at the next beat
                if self.ended.is_set() or highest(self.folder) > self.number:
                    return
                self._write(f"beat {count:09d}")

    def _write(self, state: str) -> None:
        """Overwrite the second line. A file that is gone is not made again."""
        handle = os.open(self.path, os.O_RDWR)
        try:
            first = os.read(handle, 4096).split(b"\n", 1)[0]
            if self.token.encode() in first:
                os.pwrite(handle, _line(state), len(first) + 1)
        finally:
            os.close(handle)


def path_of(folder: Path, number: int) -> Path:
    """The file of the lease with this number."""
    return folder / f".lease-{number:06d}"


def _line(state: str) -> bytes:
    return f"{state:{WIDTH - 1}}\n".encode()


def highest(folder: Path) -> int:
    """The highest number of a lease in `folder`; 0 = there is none."""
    with suppress(FileNotFoundError):
        return max((int(m[1]) for m in map(NAME.fullmatch, os.listdir(folder)) if m), default=0)
    return 0


def claim(folder: Path, say: Callable[[str], None] | None = None) -> Lease:
    """Claim `folder`, which exists. Until `release`, renames below it are checked.

    Args:
        say: gets a sentence if the claim has to wait; None = it is printed on stderr.

    Raises:
        StoreError: another process works in the folder.
        OSError: the folder cannot be written.
    """
    watched, before, looks, missing = -1, b"", 0, 0
    while True:
        number = highest(folder)
        content = _content(path_of(folder, number)) if number else _line("released")
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


def fate_of(folder: Path, content: bytes) -> Fate:
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


def follow(folder: Path, number: int, token: str) -> Lease:
    """Take part in the lease of the main process: renames below `folder` are checked here too."""
    lease = Lease(folder, number, token)
    fence.guard(folder, lease)
    return lease


def in_use(folder: Path, holder: Holder | None) -> StoreError:
    """The error of a claim on a folder in which another process works."""
    who = f" ({holder})" if holder else ""
    return StoreError(
        f"another process is working on {folder}; wait for it, or choose another folder with --out{who}"
    )


def _create(folder: Path, number: int) -> Lease | None:
    """Create the lease of this number; None if another process was faster."""
    holder = Holder.here(folder)
    lease = Lease(folder, number, holder.token, this_process())
    _held.add(holder.token)
    try:
        handle = os.open(lease.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        _held.discard(holder.token)
        return None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(f"{json.dumps(asdict(holder))}\n".encode() + _line("beat 000000000"))
            file.flush()
            os.fsync(handle)  # a failure of power would leave it unreadable
    except OSError:
        _give_up(lease)  # an unreadable lease would keep the folder for a minute
        raise
    if highest(folder) > number:  # the lease before was judged from an old listing
        _give_up(lease)
        return None
    try:
        for name in os.listdir(folder):
            match = NAME.fullmatch(name)
            if match and int(match[1]) < number:
                (folder / name).unlink(missing_ok=True)
    except OSError:
        lease.release()
        raise
    fence.guard(folder, lease)
    threading.Thread(target=lease.renew, name="difflab-lease", daemon=True).start()
    return lease


def _give_up(lease: Lease) -> None:
    """Delete a lease that was created, but does not hold."""
    _held.discard(lease.token)
    with suppress(OSError):
        lease.path.unlink(missing_ok=True)


def _content(path: Path) -> bytes | None:
    """The content of a lease; None = there is no such file any more."""
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise


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
