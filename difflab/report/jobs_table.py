"""The jobs of a study as a table. For `difflab status SWEEP`."""

from __future__ import annotations

from collections.abc import Sequence

from difflab.report.blocks import Blocks, Column
from difflab.studies.status import JobStatus

FIRST = ("failed", "stopped", "running")
LONGEST = 100
"""Jobs that are listed. Those that run or have failed come first."""


def jobs_table(jobs: Sequence[JobStatus], everything: bool = False) -> Blocks:
    """One row per job: state, where and since when it runs, generation, hours, and the reason of a failure.

    Args:
        everything: list all jobs instead of `LONGEST`.
    """
    shown = list(jobs)
    if len(shown) > LONGEST and not everything:
        shown = sorted(shown, key=lambda job: (*FIRST, job.state).index(job.state))[:LONGEST]
    heads = [
        Column("job", "left", text=True),
        Column("state", "left", text=True),
        Column("where", "left", text=True),
        Column("since"),
        Column("generation"),
        Column("hours"),
        Column("reason", "left", text=True),
    ]
    body = []
    for job in shown:
        of = "" if job.generations is None else f"/{job.generations}"
        generation = "-" if job.generation is None else f"{job.generation}{of}"
        hours = f"{job.hours:.2f}"
        body.append([job.path, job.state, job.where, job.since, generation, hours, job.reason])
    return Blocks(heads, body)
