"""A job of a study: one chain, or whatever else one process does from its start to its end.

Jobs are run by an engine (`studies/executors`). Every job is one idempotent call of `work`, and jobs share
nothing but the output folder.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from difflab.config import Config
from difflab.core.errors import DifflabError
from difflab.loop.auto import decide, put
from difflab.loop.chain import run_chain
from difflab.loop.reuse import adopt, keys
from difflab.runs.lease import LeaseLost
from difflab.runs.record import read_record
from difflab.runs.run import Run

Record = dict[str, Any]
"""What is stored of a job: arm, seed, path (relative to the output folder), error (None = it succeeded), and
shared, the stages [generation, stage] that were copied from other runs.
"""


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    arm: str
    seed: int
    config: Config
    path: Path

    def run(self, out: Path, report: Any = None, until: int | None = None) -> list[list[Any]]:
        """Run or resume the chain until generation `until`, None = to its end.

        Stages that other runs under `out` have finished are copied. Returns them as [generation, stage].
        """
        shared: list[list[Any]] = []
        main = os.environ.get("RANK", "0") == "0"  # of processes that train together
        if main and self.config.ecosystem is None:  # see `groups`
            run = Run.create(self.path, self.config)
            try:
                shared = [list(stage) for stage in adopt(run, finished(out))]
            finally:
                run.close()
        run_chain(
            self.config, self.path, report, plots=False, until=until
        )  # a study has one plot of all arms
        return shared

    def begun(self) -> list[Path]:
        """Folders of runs that this job may have started, besides its own folder."""
        return []


def groups(listed: Sequence[Job]) -> list[list[Job]]:
    """The jobs that share the training of generation 0, in the order of their first job.

    The labs of an ecosystem depend on each other, so that no stage can be copied: such a job is alone.
    """
    found: dict[str, list[Job]] = {}
    for i, job in enumerate(listed):
        alone = job.config.ecosystem is not None
        found.setdefault(f"alone {i}" if alone else keys(job.config)[0, "train"], []).append(job)
    return list(found.values())


def decided(listed: Sequence[Job], say: Callable[[str], None]) -> list[dict[str, str | bool] | DifflabError]:
    """The values of each job's fields that are auto, see `loop.auto.decide`."""
    begun = [(job.config, path) for job in listed for path in job.begun()]
    return decide([*((job.config, job.path) for job in listed), *begun], say)[: len(listed)]


def with_values(job: Job, values: dict[str, str | bool] | DifflabError) -> Job:
    """The job with `values` instead of auto.

    A job without a decision is not changed: it fails with the same error when it starts.
    """
    return job if isinstance(values, DifflabError) else replace(job, config=put(job.config, values))


def record_of(job: Job, out: Path, error: str | None = None) -> Record:
    """The record of a job that has shared no stage yet."""
    return {
        "arm": job.arm,
        "seed": job.seed,
        "path": job.path.relative_to(out).as_posix(),
        "error": error,
        "shared": [],
    }


def work(job: Job, out: Path, report: Any = None, until: int | None = None) -> Record:
    """Run or resume one job until generation `until` (None = to its end) and return its record.

    An error of the job is noted in the record. An error that is no DifflabError also leaves a traceback
    beside the run. Raises LeaseLost if another process has taken over the run: the record is up to that one.
    """
    record = record_of(job, out)
    try:
        record["shared"] = job.run(out, report, until)
    except LeaseLost:
        raise
    except DifflabError as error:
        record["error"] = str(error)
    except Exception as error:  # the other arms go on
        record["error"] = f"{type(error).__name__}: {error}"
        (job.path.parent / f"{job.path.name}.traceback.txt").write_text(traceback.format_exc())
    return record


def finished(out: Path) -> Iterable[Run]:
    """Runs in folders of `out`, or one level deeper, whose finished stages can be reused."""
    for record in sorted((*out.glob("*/run.yaml"), *out.glob("*/*/run.yaml"))):
        try:
            yield Run(record.parent, _record(record, record.stat().st_mtime_ns))
        except (DifflabError, FileNotFoundError):
            continue


@cache
def _record(path: Path, stamp: int) -> Config:
    """The config in run.yaml, read once per change of the file: reading it can take longer than a run."""
    return read_record(path)
