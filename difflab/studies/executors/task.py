"""What a Slurm job calls: it is pickled by submitit, and runs on a node."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from difflab.core.errors import ConfigError
from difflab.loop.auto import asked
from difflab.studies.executors.ledger import STARTS, Ledger
from difflab.studies.job import Job, Record, decided, record_of, with_values, work


@dataclass(frozen=True)
class Task:
    """One job of a study on a node, in one process or in several that train together.

    Attributes:
        job, out: see `job.work`.
        first: make generation 0 only, which other jobs wait for.
    """

    job: Job
    out: Path
    first: bool = False

    def __call__(self) -> None:
        """Run or resume the job, and store its record. Raises RuntimeError if it has failed, for Slurm."""
        settle()
        main = os.environ.get("SLURM_PROCID", "0") == "0"
        ledger = Ledger(self.out)
        entry = ledger.begin(self.job, self.first) if main else None
        if entry and entry.stalled >= STARTS:
            record = record_of(
                self.job,
                self.out,
                f"Slurm has started it {STARTS + 1} times without a finished stage or a new checkpoint; give "
                "it more time (--slurm time=...) or set train.checkpoint_every lower",
            )
        else:
            record = self._work(ledger)
        if entry:
            ledger.end(self.job, self.first, entry, record)
        if record["error"]:
            raise RuntimeError(record["error"])

    def _work(self, ledger: Ledger) -> Record:
        """The record of the job, whose fields with auto were decided by another job."""
        job = self.job
        if asked(job.config):
            values = ledger.decided().get(ledger.key(job), "the job that decides what is auto has failed")
            if isinstance(values, str):
                return record_of(job, self.out, values)
            job = with_values(job, values)
        return work(job, self.out, until=0 if self.first else None)

    def checkpoint(self) -> Any:
        """What Slurm starts after a preemption or a time limit: the same call."""
        return again(self)


@dataclass(frozen=True)
class Decide:
    """Decide all fields that are auto, on a node, before the jobs start."""

    listed: Sequence[Job]
    out: Path

    def __call__(self) -> None:
        settle()
        if os.environ.get("SLURM_PROCID", "0") != "0":
            return
        ledger, said = Ledger(self.out), []  # type: tuple[Ledger, list[str]]
        values = decided(self.listed, said.append)
        by_key = {ledger.key(job): found for job, found in zip(self.listed, values, strict=True)}
        ledger.decide(by_key, said)

    def checkpoint(self) -> Any:
        """See `Task.checkpoint`."""
        return again(self)


def again(task: Any) -> Any:
    """A call as submitit pickles it."""
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(task)


def settle() -> None:
    """Set threads and the environment of torch.distributed as Slurm has placed this process.

    Raises ConfigError outside of a Slurm job.
    """
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    env: Any = os.environ
    if "SLURM_JOB_ID" not in env:
        raise ConfigError("this is started by Slurm only")
    # A dump that was interrupted would keep submitit from the next one, and Slurm from the next start.
    pickle = JobEnvironment().paths.submitted_pickle
    pickle.with_suffix(f"{pickle.suffix}.save_tmp").unlink(missing_ok=True)
    nodes, processes = int(env.get("SLURM_NNODES") or 1), int(env.get("SLURM_NTASKS") or 1)
    if processes > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if nodes == 1:  # the name of a node need not resolve on it
            env["MASTER_ADDR"] = "127.0.0.1"
    if not torch.cuda.is_available():
        here = int(env.get("SLURM_CPUS_ON_NODE") or 1) * nodes // processes
        torch.set_num_threads(int(env.get("SLURM_CPUS_PER_TASK") or 0) or max(1, here))
