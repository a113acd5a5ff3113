"""How far the jobs of a study are: from the queue, their records, and the files that they have written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difflab.core.errors import ConfigError
from difflab.core.files import read_json
from difflab.runs.folder import STAGE
from difflab.runs.lease import holder_of
from difflab.studies.executors import squeue
from difflab.studies.executors.ledger import FIRST, Ledger
from difflab.studies.executors.slurm import in_queue
from difflab.studies.executors.squeue import Queued, QueueError

STATES = ("running", "queued", "failed", "stopped", "not started", "done")


@dataclass(frozen=True)
class JobStatus:
    """How far a job is.

    Attributes:
        path: of its run, relative to the study.
        state: one of `STATES`. stopped = it has begun, no process works on it, and it is not in the queue.
        where: the node or host on which it runs or ran last, with its Slurm job.
        since: how long it has been running, as hours and minutes; "" = it does not run, or not on a cluster.
        generation: the last finished one; None = none.
        generations: the last one that is planned; None = unknown.
        hours: processes times hours that its finished stages took. On GPUs these are GPU hours.
        reason: why it failed, or why it waits in the queue.
    """

    path: str
    state: str
    where: str
    since: str
    generation: int | None
    generations: int | None
    hours: float
    reason: str


def study_of(folder: Path) -> Path | None:
    """The folder of a study's jobs, if `folder` is that of a study; None if it is not."""
    for place in (folder, folder / "runs"):
        if (place / "sweep.json").exists() or (place / ".slurm").is_dir():
            return place
    return None


def status(out: Path) -> tuple[list[JobStatus], str]:
    """The jobs of a study in their order, and a sentence if the queue could not be asked.

    Raises ConfigError if the folder holds no study, and StoreError if its files are damaged.
    """
    out = out.resolve()
    stored = read_json(out / "sweep.json") if (out / "sweep.json").exists() else {}
    ledger = Ledger(out)
    there: Mapping[str, Queued] = {}
    trouble = ""
    if ledger.home.is_dir():
        try:
            there = in_queue(ledger)
        except QueueError as error:
            trouble = f"the queue cannot be asked ({error}), so that only files are shown"
    plan: Sequence[dict[str, Any]] = stored.get("planned") or stored.get("jobs") or []
    if not plan:
        keys = dict.fromkeys(key for array in ledger.arrays() for key in array.keys)
        plan = [{"path": key} for key in keys if not key.endswith(FIRST)]
    if not plan:
        raise ConfigError(f"{out} holds no study that has begun")
    records = {record["path"]: record for record in stored.get("jobs", [])}
    return [_job(out, each, ledger, there, records.get(each["path"])) for each in plan], trouble


def _job(
    out: Path,
    plan: Mapping[str, Any],
    ledger: Ledger,
    there: Mapping[str, Queued],
    record: Mapping[str, Any] | None,
) -> JobStatus:
    path = plan["path"]
    folder, generations = out / path, plan.get("generations")
    entry = ledger.entry(path)
    queued = there.get(path) or there.get(path + FIRST)
    done, hours = _finished(folder), _hours(folder)
    where = f"{entry.node} ({entry.slurm_id})" if entry else ""
    if first := there.get(path + FIRST):
        queued = first if first.runs else queued
    if queued:
        state, reason = ("running", "") if queued.runs else ("queued", _why(queued))
        where = f"{queued.node or 'no node'} ({queued.slurm_id})"
        if entry and entry.restarts:
            reason = f"{reason}; restart {entry.restarts}".lstrip("; ")
        return JobStatus(path, state, where, queued.elapsed, done, generations, hours, reason)
    record = (entry.record if entry and entry.record else None) or record
    state, reason = "not started", ""
    if folder.is_dir() and (holder := holder_of(folder)):
        state, where = "running", str(holder)
    elif record and record["error"]:
        state, reason = "failed", record["error"]
    elif record:
        state = "done"
    elif entry and entry.slurm_id:
        how = squeue.ending(entry.slurm_id)
        state, reason = "stopped", f"Slurm: {how}" if how else "its Slurm job has ended without a result"
    elif folder.is_dir():
        state = "done" if done is not None and done == generations else "stopped"
    return JobStatus(path, state, where, "", done, generations, hours, reason)


def _why(queued: Queued) -> str:
    return "" if queued.reason in ("None", "") else f"waits: {queued.reason}"


def _finished(folder: Path) -> int | None:
    """The last generation whose measures are finished, in all labs of an ecosystem."""
    labs = sorted(folder.glob("lab-*")) or [folder]
    last: list[int] = []
    for lab in labs:
        found = [int(path.parent.name[4:]) for path in lab.glob(f"gen-*/{STAGE['measure'].done_file}")]
        if not found:
            return None
        last.append(max(found))
    return min(last)


def _hours(folder: Path) -> float:
    """Hours of all stages times processes, from every timings.jsonl of a run or of several."""
    seconds = 0.0
    for path in (*folder.glob("timings.jsonl"), *folder.glob("*/timings.jsonl")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            for line in path.read_text().splitlines():
                row = json.loads(line)
                seconds += row["seconds"] * row.get("processes", 1)
    return seconds / 3600


def headline(jobs: Sequence[JobStatus]) -> str:
    """One sentence on all jobs: how many are in which state, and what they have cost so far.

    >>> job = JobStatus("a/seed-0", "done", "", "", 5, 5, 0.5, "")
    >>> headline([job, job])
    '2 jobs: 2 done; 1 hours of work so far (processes times time)'
    """
    counts = Counter(job.state for job in jobs)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    hours = f"{sum(job.hours for job in jobs):,.3g}"
    plural = "s" * (len(jobs) != 1)
    return f"{len(jobs)} job{plural}: {states}; {hours} hours of work so far (processes times time)"
