"""What is known of the jobs of a study on a cluster: the files in ``OUT/.slurm``.

    .slurm/
      arrays/0003.json       what an array of jobs runs, in the order of its indices; its name in the queue
      jobs/ARM/seed-0.json   one entry per job, written by the job: where it runs, its starts, its record
      decided.json           fields that were auto, decided by a job for all others
      logs/                  output of the jobs, and the pickles from which they start

Names in the queue follow from the folder and the number of the array. An array is therefore found again even
if the command was killed right after it had submitted it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from socket import gethostname
from typing import Any

from difflab.config import Config
from difflab.core.errors import DifflabError, StoreError
from difflab.core.files import read_json, write_json
from difflab.core.hashing import digest
from difflab.runs import lease
from difflab.studies.job import Job, Record

STARTS = 5
"""Starts of a job in a row that may end without a finished stage or a new checkpoint."""
FIRST = ".first"
"""The end of the key of a task that makes generation 0 only."""


@dataclass
class Entry:
    """What a job on a cluster has written about itself.

    Attributes:
        recipe: see `recipe_of`.
        slurm_id: of its last start, such as 70_3.
        node: the host name of its last start.
        started: time of its last start, in seconds since 1970, by the clock of the node.
        restarts: how often Slurm has started it again.
        stalled: starts in a row before the last one without progress.
        progress: see `progress_of`, at its last start.
        record: the record of the job; None = it has not ended.
    """

    recipe: str
    slurm_id: str
    node: str
    started: float
    restarts: int
    stalled: int
    progress: str
    record: Record | None = None


@dataclass(frozen=True)
class Array:
    """Jobs that were submitted together.

    Attributes:
        name: in the queue.
        keys: the key of each task, by its index.
        recipes: see `recipe_of`, by its index.
    """

    name: str
    keys: list[str]
    recipes: list[str]


class Ledger:
    """The files of the study in `out`. `out` need not exist."""

    def __init__(self, out: Path):
        self.out = out
        self.home = out / ".slurm"
        self.logs = self.home / "logs"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Let no other process submit or cancel jobs of this study. Raises StoreError if one does."""
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            held = lease.claim(self.home)
        except StoreError as error:
            raise StoreError(f"{error}; the jobs go on, and difflab status {self.out} shows them") from error
        try:
            yield
        finally:
            held.release()

    # --------------------------------------------------------------------------------------------- arrays
    def arrays(self) -> list[Array]:
        """All arrays that were submitted, from the oldest."""
        return [Array(**read_json(path)) for path in sorted((self.home / "arrays").glob("*.json"))]

    def new_array(self, keys: Sequence[str], recipes: Sequence[str]) -> Array:
        """Note an array before it is submitted."""
        number = len(list((self.home / "arrays").glob("*.json"))) + 1
        stem = re.sub(r"[^A-Za-z0-9.-]+", "-", self.out.resolve().name)[:30] or "study"
        place = digest([gethostname(), str(self.out.resolve()), self.home.stat().st_ino])
        array = Array(f"{stem}-{place[:6]}-{number}", list(keys), list(recipes))
        self._write(Path("arrays") / f"{number:04d}.json", asdict(array))
        return array

    # -------------------------------------------------------------------------------------------- entries
    def key(self, job: Job, first: bool = False) -> str:
        """The path of a job below `out`, with `FIRST` if it makes generation 0 only."""
        return job.path.relative_to(self.out).as_posix() + FIRST * first

    def entry(self, key: str) -> Entry | None:
        """What the job has written; None if it has not started."""
        with suppress(StoreError):
            found = read_json(self.home / "jobs" / f"{key}.json", Entry)
            return Entry(**{each.name: found[each.name] for each in fields(Entry)})
        return None

    def record(self, job: Job) -> Record | None:
        """The record of a job that has ended with its present config; None if there is none."""
        found = self.entry(self.key(job))
        if found is None or found.recipe != recipe_of(job) or found.record is None:
            return None
        deleted = found.record["error"] is None and not job.path.exists()
        return None if deleted else found.record

    def forget(self, job: Job) -> None:
        """Delete the record of a job before it is submitted again. Its starts stay counted."""
        key = self.key(job)
        found = self.entry(key)
        if found is not None and found.record is not None:
            self._write_entry(key, Entry(**{**asdict(found), "record": None, "stalled": 0}))

    def begin(self, job: Job, first: bool) -> Entry:
        """Note that this process, a Slurm job, starts to work on `job`."""
        key, restarts = self.key(job, first), int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        progress, before = progress_of(job.path), self.entry(key)
        stalled = 0
        if before and (before.slurm_id, before.progress) == (slurm_id(), progress):
            stalled = before.stalled + (restarts > before.restarts)
        node = os.environ.get("SLURMD_NODENAME") or gethostname()
        entry = Entry(recipe_of(job), slurm_id(), node, time.time(), restarts, stalled, progress)
        self._write_entry(key, entry)
        return entry

    def end(self, job: Job, first: bool, entry: Entry, record: Record) -> None:
        """Store the record of a job, unless Slurm has started it again since."""
        key = self.key(job, first)
        latest = self.entry(key)
        if latest and (latest.slurm_id, latest.restarts) != (entry.slurm_id, entry.restarts):
            return
        self._write_entry(key, Entry(**{**asdict(entry), "record": record}))

    def _write_entry(self, key: str, entry: Entry) -> None:
        self._write(Path("jobs") / f"{key}.json", asdict(entry))

    def _write(self, name: Path, content: Any) -> None:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)

    # ------------------------------------------------------------------------------------ fields with auto
    def decided(self) -> dict[str, Any]:
        """Values, or the sentence of an error, by the key of a job; under "said" what was said."""
        path = self.home / "decided.json"
        return read_json(path) if path.exists() else {}

    def decide(self, values: dict[str, dict[str, Any] | DifflabError], said: Sequence[str]) -> None:
        """Store the decision on all jobs."""
        plain = {k: str(found) if isinstance(found, DifflabError) else found for k, found in values.items()}
        self._write(Path("decided.json"), {**plain, "said": list(said)})


def slurm_id() -> str:
    """The id of this process's Slurm job as squeue shows it, such as 70_3."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")


def recipe_of(job: Job) -> str:
    """The hash of all that a job is given, except where it lies."""
    given = {each.name: getattr(job, each.name) for each in fields(job) if each.name != "path"}
    given = {k: v.model_dump(mode="json") if isinstance(v, Config) else v for k, v in given.items()}
    return digest([type(job).__name__, given])


RESULTS = (".json", ".parquet", ".safetensors", ".npz", ".npy", ".webp")


def progress_of(folder: Path) -> str:
    """A hash that changes whenever a stage is finished or a checkpoint of a training is written."""
    seen = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(RESULTS) and not name.startswith(".") and name != "hashes.json":
                with suppress(FileNotFoundError):
                    path = Path(place) / name
                    seen.append([path.relative_to(folder).as_posix(), path.stat().st_mtime_ns])
    return digest(seen)
