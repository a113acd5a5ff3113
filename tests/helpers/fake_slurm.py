"""A Slurm in this process: `squeue` runs the next job before it answers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from difflab.studies.executors import slurm, squeue
from difflab.studies.executors.squeue import QueueError


class FakeSlurm:
    """Answers the commands that difflab calls, and runs what it submits.

    Attributes:
        submitted: the sbatch options and the tasks of every array.
        lose: ids of jobs that vanish without having run.
        away: commands that fail because the controller does not answer.
        hold: ids of jobs that stay in the queue without running.
    """

    def __init__(self, monkeypatch: Any, place: Path):
        self.submitted: list[tuple[dict[str, Any], list[Callable[[], None]]]] = []
        self.queue: dict[str, tuple[str, Callable[[], None]]] = {}
        self.lose: set[str] = set()
        self.hold: set[str] = set()
        self.away, self.largest = 0, 1001
        self.monkeypatch = monkeypatch
        srun = place / "srun"
        srun.write_text("#!/bin/sh\n")
        srun.chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        monkeypatch.setattr(slurm, "_submitted", self.submit)
        monkeypatch.setattr(squeue, "_slurm", self.command)
        monkeypatch.setattr(slurm, "LONGEST_LOOK_S", 0.0)

    def submit(self, executor: Any, tasks: list[Callable[[], None]]) -> list[str]:
        self.submitted.append((dict(executor.parameters), list(tasks)))
        number, name = len(self.submitted), executor.parameters["job_name"]
        ids = [f"{number}_{i}" for i in range(len(tasks))] if len(tasks) > 1 else [str(number)]
        self.queue |= {each: (name, task) for each, task in zip(ids, tasks, strict=True)}
        self.folder = str(executor.folder)
        return ids

    def command(self, *words: str) -> str:
        if self.away:
            self.away -= 1
            raise QueueError(f"{words[0]}: Unable to contact slurm controller")
        if words[0] == "squeue":
            lines = [f"{each}|{name}|PENDING||0:00|None" for each, (name, _) in self.queue.items()]
            self.run_next()
            return "\n".join(lines)
        if words[0] == "scancel":
            for each in words[1:]:
                self.queue.pop(each)
            return ""
        if words[0] == "sacct":
            raise QueueError("Slurm accounting storage is disabled")
        if words[:3] == ("scontrol", "show", "config"):
            return f"MaxArraySize            = {self.largest}\n"
        if words[0] == "scontrol":
            return f"JobId={words[-1]} JobState=FAILED Reason=OutOfMemory ExitCode=0:125"
        assert words[0] == "sinfo"
        return "low*|n/a|1-00:00:00\nhigh|2:00:00|infinite\n"

    def run_next(self) -> None:
        for each, (_, task) in list(self.queue.items()):
            if each not in self.hold:
                del self.queue[each]
                if each not in self.lose:
                    self.start(each, task)
                return

    def given(self, slurm_id: str, restarts: int) -> dict[str, str]:
        """The environment of a job."""
        array, _, index = slurm_id.partition("_")
        return {
            "SLURM_JOB_ID": re.sub(r"\D", "", slurm_id),
            "SLURM_ARRAY_JOB_ID": array,
            "SLURM_ARRAY_TASK_ID": index or "0",
            "SLURM_RESTART_COUNT": str(restarts),
            "SLURM_CPUS_PER_TASK": "1",
            "SLURMD_NODENAME": "n1",
            "SUBMITIT_EXECUTOR": "slurm",
            "SUBMITIT_FOLDER": self.folder,
        }

    def start(self, slurm_id: str, task: Callable[[], None], restarts: int = 0) -> str:
        """Run a task as Slurm would. Returns its error, "" = none."""
        with self.monkeypatch.context() as patch:
            for key, value in self.given(slurm_id, restarts).items():
                patch.setenv(key, value)
            if "_" not in slurm_id:
                patch.delenv("SLURM_ARRAY_JOB_ID")
            try:
                task()
            except RuntimeError as error:
                return str(error)
        return ""
