"""The arguments of studies that say where their jobs run."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from difflab.cli.output import print_rows, show
from difflab.core.errors import ConfigError

if TYPE_CHECKING:
    from difflab.studies.executors.engine import Engine


def engine_arguments(command: argparse.ArgumentParser) -> None:
    """Add --workers, and the options of a cluster."""
    command.add_argument(
        "--workers", type=int, help="runs at once (default: one per GPU; on a CPU one, which uses all cores)"
    )
    command.add_argument(
        "--engine",
        choices=("local", "slurm"),
        default="local",
        help="where the jobs run: on this machine, or as jobs of a Slurm cluster (default: local)",
    )
    command.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE,...",
        help="options of sbatch with underscores, such as partition=gpu,gpus_per_node=1,time=4:00:00",
    )
    command.add_argument("--max-jobs", type=int, metavar="N", help="Slurm jobs that run at the same time")
    command.add_argument("--cancel", action="store_true", help="end the study's jobs in the Slurm queue")


def engine_of(args: argparse.Namespace) -> Engine:
    """The engine that the arguments of `engine_arguments` choose.

    Raises ConfigError for options that do not belong to it.
    """
    if args.engine == "local":
        for option, given in (("--slurm", args.slurm), ("--max-jobs", args.max_jobs)):
            if given:
                raise ConfigError(f"{option} is for a cluster: add --engine slurm")
        from difflab.studies.executors.local import Local

        return Local(args.workers)
    if args.workers:
        raise ConfigError("--workers is for this machine; on a cluster it is --max-jobs")
    if args.max_jobs is not None and args.max_jobs < 1:
        raise ConfigError(f"--max-jobs is {args.max_jobs}: give at least 1")
    from difflab.studies.executors.slurm import Slurm

    return Slurm(settings(args.slurm), args.max_jobs)


def settings(given: list[str]) -> dict[str, str | int]:
    """Options of sbatch from the texts of --slurm. A comma separates two options, or is part of a value.

    >>> settings(["partition=low,high,gpus_per_node=1", "time=4:00:00"])
    {'partition': 'low,high', 'gpus_per_node': 1, 'time': '4:00:00'}
    """
    found: dict[str, str | int] = {}
    for text in given:
        for part in re.split(r",(?=[A-Za-z_-]+=)", text):
            key, equals, value = part.partition("=")
            if not equals or not key or not value:
                raise ConfigError(f"--slurm {text}: write KEY=VALUE, such as partition=gpu,time=4:00:00")
            key = key.strip().lstrip("-").replace("-", "_")
            found[key] = int(value) if value.isdecimal() and key != "time" else value
    return found


def cancelled(out: Path) -> int:
    """Cancel the jobs of a study, say how many, and return the exit code."""
    from difflab.studies.executors.slurm import cancel

    count = cancel(out)
    print(
        f"{count} job{'s' * (count != 1)} cancelled; finished stages are kept, and the same command resumes"
    )
    return 0


def status_of_study(out: Path, everything: bool, as_json: bool) -> int:
    """Print how far each job of a study is, and return the exit code: 1 if a job has failed."""
    from dataclasses import asdict

    from difflab.report.jobs_table import LONGEST, jobs_table
    from difflab.studies.status import headline, status

    jobs, trouble = status(out)
    if as_json:
        print_rows(asdict(job) for job in jobs)
    else:
        show(jobs_table(jobs, everything))
        if len(jobs) > LONGEST and not everything:
            print(f"{LONGEST} of {len(jobs)} jobs are listed; --all lists all")
        print(headline(jobs))
    if trouble:
        print(trouble, file=sys.stderr)
    return 1 if any(job.state == "failed" for job in jobs) else 0
