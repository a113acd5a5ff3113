from __future__ import annotations

from difflab.report.jobs_table import LONGEST, jobs_table
from difflab.studies.status import JobStatus


def job(i, state):
    return JobStatus(
        f"arm/seed-{i}", state, "n1 (7_0)", "1:02", 3, 10, 0.25, "a reason" * (state == "failed")
    )


def text(table):
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as shown:
        console.print(table)
    return shown.get()


def test_a_row_says_how_far_a_job_is():
    shown = text(jobs_table([job(0, "failed")]))
    for word in ("arm/seed-0", "failed", "n1 (7_0)", "1:02", "3/10", "0.25", "a reason"):
        assert word in shown


def test_of_many_jobs_those_that_failed_or_run_come_first():
    many = [job(i, "done") for i in range(LONGEST)] + [job(LONGEST, "running"), job(LONGEST + 1, "failed")]
    shown = text(jobs_table(many))
    assert shown.index(f"seed-{LONGEST + 1}") < shown.index(f"seed-{LONGEST} ") < shown.index("seed-0 ")
    assert f"seed-{LONGEST - 1} " not in shown
    assert f"seed-{LONGEST - 1} " in text(jobs_table(many, everything=True))
