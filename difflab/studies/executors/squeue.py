"""Slurm's own commands: what is in the queue, how a job has ended, and cancelling."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from difflab.core.errors import ConfigError

TIMEOUT_S = 120


class QueueError(ConfigError):
    """A command of Slurm that is missing or has failed."""


@dataclass(frozen=True)
class Queued:
    """A job in the queue.

    Attributes:
        slurm_id: such as 70_3, or 70 for a job that is no array.
        name, index: of its array.
        state: Slurm's word, such as PENDING, RUNNING, COMPLETING or REQUEUED.
        node: where it runs; "" = nowhere.
        elapsed: since it has started, as squeue prints it, such as 1-02:03:04.
        reason: why it waits, such as Priority or Dependency; "None" while it runs.
    """

    slurm_id: str
    name: str
    index: int
    state: str
    node: str
    elapsed: str
    reason: str

    @property
    def runs(self) -> bool:
        """Whether it has a node."""
        return self.state in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")


def queued(names: Iterable[str]) -> list[Queued]:
    """The jobs with these names that are in the queue: that wait, run or end."""
    wanted = set(names)
    if not wanted:
        return []
    text = _slurm("squeue", "--noheader", "--array", "--me", "--format=%i|%j|%T|%N|%M|%r")
    found = []
    for line in text.splitlines():
        job, name, state, node, elapsed, reason = (part.strip() for part in line.rsplit("|", 5))
        if name in wanted:
            index = int(job.partition("_")[2] or 0)
            found.append(Queued(job, name, index, state, node, elapsed, reason))
    return found


def ending(slurm_id: str) -> str:
    """How a job that has left the queue ended, in Slurm's words; "" if Slurm does not know any more.

    Accounting is asked where there is some. Without it Slurm forgets a job after MinJobAge, five minutes by
    default.
    """
    try:
        state = _slurm("sacct", "-X", "-n", "-P", "-o", "State,ExitCode", "-j", slurm_id).strip()
    except QueueError:
        state = ""
    if state:
        return state.splitlines()[0].replace("|", ", exit code ")
    try:
        text = _slurm("scontrol", "--oneliner", "show", "job", slurm_id)
    except QueueError:
        return ""
    words = dict(re.findall(r"(JobState|Reason|ExitCode)=(\S+)", text))
    reason = f", {words['Reason']}" if words.get("Reason", "None") != "None" else ""
    return f"{words['JobState']}{reason}, exit code {words.get('ExitCode', '?')}" if words else ""


def cancel(slurm_ids: Sequence[str]) -> None:
    """Cancel jobs, and take those that would be requeued out of the queue."""
    for start in range(0, len(slurm_ids), 500):
        _slurm("scancel", *slurm_ids[start : start + 500])


def largest_array() -> int:
    """Number of tasks that an array may have."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _slurm("scontrol", "show", "config"))
    return min(1000, int(found[1]) - 1) if found else 1000


def default_time(partition: str | None) -> str:
    """The time limit that a partition gives to a job without one."""
    where = ("-p", partition) if partition else ()
    for line in _slurm("sinfo", "--noheader", *where, "-o", "%P|%L|%l").splitlines():
        name, default, longest = line.split("|")
        if partition or name.endswith("*"):
            for limit in (default, longest):
                if limit[:1].isdigit():
                    return limit
    return "UNLIMITED"


def minutes(time: str) -> float:
    """Minutes of a time limit as sbatch takes it: 90, 90:30, 4:00:00, 2-12 or 2-12:30:00.

    Raises ConfigError for other texts.

    >>> minutes("90"), minutes("1:30"), minutes("4:00:00"), minutes("2-12"), minutes("1-00:30")
    (90.0, 1.5, 240.0, 3600.0, 1470.0)
    """
    if time.upper() in ("UNLIMITED", "INFINITE"):
        return 1e7
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", time):
        raise ConfigError(f"time={time}: give minutes, or hours as 4:00:00, or days and hours as 2-12:00:00")
    days, _, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:
        parts += [0] * (3 - len(parts))
        return int(days) * 1440 + parts[0] * 60 + parts[1] + parts[2] / 60
    if len(parts) == 3:
        return parts[0] * 60 + parts[1] + parts[2] / 60
    return parts[0] + (parts[1] / 60 if len(parts) == 2 else 0)


def _slurm(*words: str) -> str:
    """What a command of Slurm prints. Raises QueueError with its last line on stderr."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, errors="replace")
    except FileNotFoundError:
        raise QueueError(f"there is no {words[0]} here: --engine slurm needs the commands of Slurm") from None
    except subprocess.TimeoutExpired:
        raise QueueError(f"{words[0]} has not answered within {TIMEOUT_S} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise QueueError(f"{words[0]}: {lines[-1]}")
    return done.stdout
