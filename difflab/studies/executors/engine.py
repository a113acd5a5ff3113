"""What every engine can do: run the jobs of a study. `local` does on this machine, `slurm` on a cluster.

An engine gets a list of jobs and passes the record of each to `note` as soon as the job has ended. Jobs are
run by `job.groups`: the jobs of a group reuse generation 0 of the first one, so they start when it exists.
Fields of a config that are auto are decided where the jobs run, once for all jobs of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from difflab.studies.job import Job, Record


class Engine(Protocol):
    """Where and how jobs run."""

    def run(
        self,
        listed: Sequence[Job],
        out: Path,
        note: Callable[[Job, Record], None],
        report: Callable[[Job], Any] | None = None,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """Run or resume jobs.

        Args:
            listed: the jobs. Their folders lie below `out`.
            note: called with each job and its record as soon as it has ended, in this process.
            report: returns the Reporter of a job that runs in this process.
            say: called with a sentence for every precision that was decided, and on what the engine does.
        """
