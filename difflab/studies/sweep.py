"""Arms x seeds: the same chain under different settings, compared seed by seed.

A sweep is a YAML file: a base config, overrides for all arms, one mapping of overrides per arm, and seeds. Every run lies in
``OUT/ARM/seed-K`` and is an ordinary run. Arms share every stage up to where they part (reuse.py). Rerunning resumes; an arm that fails
is recorded with its reason, the others go on.

To put a cluster under it: `waves` lists the runs, those that others share generation 0 with before the others; each job is one
idempotent call of `work`, and all that jobs have in common is the folder.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import Queue
from typing import Any

import yaml
from pydantic import Field

from difflab import config as configs
from difflab.config import Config, Spec
from difflab.core.errors import ConfigError, DataError, DifflabError
from difflab.core.files import read_json, read_text, write_json
from difflab.loop.reuse import adopt, keys
from difflab.runs.record import read_record
from difflab.runs.run import Run, open_run
from difflab.studies.compare_runs import Arm


class Sweep(Spec):
    """Arms x seeds of one base config."""

    name: str = Field(
        "sweep",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Folder under runs/ when --out is not given.",
    )
    base: str | dict[str, Any] = Field(
        description="Path of a chain's config, relative to this file, or the config itself."
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="Dotted keys and their values, for every arm; {} = the base as it is.",
    )
    seeds: int | list[int] = Field(
        3, description="Seeds 0 to n-1, or a list of them. Arms are compared seed by seed."
    )
    arms: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="Name of each arm and its dotted overrides; the first one is what others are compared with.",
    )

    @property
    def seed_list(self) -> list[int]:
        return list(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    arm: str
    seed: int
    config: Config
    path: Path


def read(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Sweep, Path]:
    """A sweep file, and the folder that its base is relative to. `overrides` are of the sweep itself, such as ``seeds=5``."""
    return configs.load(path, list(overrides), Sweep), Path(path).parent


def jobs(sweep: Sweep, folder: Path, out: Path) -> list[Job]:
    """All runs, every one checked before any starts. Raises ConfigError that names the arm."""
    if not sweep.seed_list or len(set(sweep.seed_list)) != len(sweep.seed_list):
        raise ConfigError(f"seeds: at least one and each once, got {sweep.seeds}")
    raw = sweep.base if isinstance(sweep.base, dict) else _raw(folder / sweep.base)
    found: list[Job] = []
    places: dict[str, str] = {}
    for arm, own in sweep.arms.items():
        place = re.sub(r"[^A-Za-z0-9._-]+", "-", arm).strip("-.") or "arm"
        if places.setdefault(place, arm) != arm:
            raise ConfigError(
                f"arms '{places[place]}' and '{arm}' would share the folder {place}; rename one"
            )
        for seed in sweep.seed_list:
            config = configs.parse(
                configs.merged(raw, {**sweep.overrides, **own, "seed": seed, "name": place}), f"arm '{arm}'"
            )
            found.append(Job(arm, seed, config, out / place / f"seed-{seed}"))
    return found


def waves(listed: Sequence[Job]) -> list[list[Job]]:
    """Leaders, the first of those that share the training of generation 0, and then the others, which find it done."""
    leading = {keys(job.config)[0, "train"]: job for job in reversed(listed)}.values()
    return [
        [j for j in listed if any(j is x for x in leading)],
        [j for j in listed if not any(j is x for x in leading)],
    ]


def _raw(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(read_text(path), configs.Loader)
    except DataError as error:
        raise ConfigError(f"base: cannot read {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"base: {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"base: {path} holds no mapping of keys")
    return raw


def record_of(job: Job, out: Path, error: str | None = None) -> dict[str, Any]:
    """What is noted of a job: {arm, seed, path, error, shared}."""
    return {
        "arm": job.arm,
        "seed": job.seed,
        "path": str(job.path.relative_to(out)),
        "error": error,
        "shared": [],
    }


def work(job: Job, out: Path, report: Any = None) -> dict[str, Any]:
    """Run or resume one job, taking over what other runs under `out` have finished; returns its record."""
    from difflab.loop.chain import run_chain

    record = record_of(job, out)
    try:
        if (
            job.config.ecosystem is None
        ):  # labs lie in folders of their own, and one generation of each depends on the others
            run = Run.create(job.path, job.config)
            try:
                record["shared"] = [list(stage) for stage in adopt(run, finished(out))]
            finally:
                run.close()
        run_chain(job.config, job.path, report, plots=False)  # one plot of all arms says more
    except DifflabError as error:
        record["error"] = str(error)
    except Exception as error:  # an arm that breaks must not take the others with it
        record["error"] = f"{type(error).__name__}: {error}"
        (job.path.parent / f"{job.path.name}.traceback.txt").write_text(traceback.format_exc())
    return record


def finished(out: Path) -> Iterable[Run]:
    """Runs in folders of `out`, or one level below, that are worth looking into for finished stages."""
    for record in sorted((*out.glob("*/run.yaml"), *out.glob("*/*/run.yaml"))):
        try:
            yield Run(record.parent, _record(record, record.stat().st_mtime_ns))
        except (DifflabError, FileNotFoundError):
            continue


@cache
def _record(path: Path, stamp: int) -> Config:
    """What run.yaml says, read once per change: with many arms reading it again for each would take longer than the arm."""
    return read_record(path)


def run_sweep(
    sweep: Sweep,
    folder: Path,
    out: Path,
    workers: int | None = None,
    report: Callable[[Job], Any] | None = None,
    say: Any = print,
) -> list[dict[str, Any]]:
    """Run or resume all jobs and leave ``OUT/sweep.json``; returns a record per job, see `work`.

    Args:
        folder: what the base's path is relative to.
        workers, report: see `execute`.
    """
    listed = jobs(sweep, folder, out)
    records: dict[tuple[str, int], dict[str, Any]] = {}
    out.mkdir(parents=True, exist_ok=True)

    def note(job: Job, record: dict[str, Any]) -> None:
        records[job.arm, job.seed] = record
        done = [
            records[j.arm, j.seed] for j in listed if (j.arm, j.seed) in records
        ]  # in the order of the file
        write_json(
            out / "sweep.json",
            {"sweep": sweep.model_dump(mode="json"), "arms": list(sweep.arms), "jobs": done},
        )  # keys are sorted there
        if record["error"]:
            say(f"{job.arm}, seed {job.seed} FAILED: {record['error']}")

    execute(listed, out, note, workers, report)
    return [records[job.arm, job.seed] for job in listed]


def execute(
    listed: Sequence[Job],
    out: Path,
    note: Callable[[Job, dict[str, Any]], None],
    workers: int | None = None,
    report: Callable[[Job], Any] | None = None,
) -> None:
    """Run jobs, those that others wait for first, and hand each one's record to `note` as it ends.

    Args:
        workers: processes at once; None = one per GPU, on a CPU one (in this process, so that nothing is started anew).
        report: Reporter for a job that runs in this process.
    """
    import torch

    gpus = torch.cuda.device_count()
    workers = workers or max(1, gpus)
    if workers == 1:
        for job in (job for wave in waves(listed) for job in wave):
            note(job, work(job, out, report(job) if report else None))
        return
    devices = visible(gpus)
    share = max(1, (os.cpu_count() or 1) // workers)
    free: Queue[Worker] = Queue()
    for i in range(workers):
        free.put(Worker(devices[i % len(devices)] if devices else None, share))

    def run(job: Job) -> dict[str, Any]:
        worker = free.get()
        try:
            return worker.run(job, out)
        finally:
            free.put(worker)

    threads = ThreadPoolExecutor(workers)
    try:
        for wave in waves(listed):
            running = {threads.submit(run, job): job for job in wave}
            for future in as_completed(running):
                note(running[future], future.result())
    finally:
        threads.shutdown(cancel_futures=True)  # where it is interrupted, no further job begins
        while not free.empty():
            free.get().pool.shutdown()


def visible(gpus: int) -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each of the GPUs that torch counts here: those that this process was given, by number or UUID."""
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (given or [str(i) for i in range(gpus)])[:gpus]


class Worker:
    """A process for one job after another with its own GPU or its share of the cores, started anew where it was killed."""

    def __init__(self, device: str | None, threads: int):
        self.place = (device, threads)
        self.pool = self.start()

    def start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _settle, self.place)

    def run(self, job: Job, out: Path) -> dict[str, Any]:
        """The record of a job; of one whose process was killed it names that."""
        try:
            return self.pool.submit(work, job, out).result()
        except BrokenProcessPool:
            self.pool.shutdown()
            self.pool = self.start()
            return record_of(
                job,
                out,
                "its process was killed, as happens where memory runs out; the same command resumes it, with fewer --workers",
            )


def _settle(device: str | None, threads: int) -> None:
    """A worker's own GPU, or its share of the cores; before torch looks."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    else:
        import torch

        torch.set_num_threads(threads)


def runs_of(out: Path) -> list[tuple[str, int, Run]]:
    """The runs of a sweep's folder that were measured to the end: arm, seed, run. Raises ConfigError where there is no sweep."""
    if not (out / "sweep.json").exists():
        raise ConfigError(
            f"{out} holds no sweep (no sweep.json); start one with: difflab sweep SWEEP.yaml --out {out}"
        )
    found = []
    for record in read_json(out / "sweep.json")["jobs"]:
        if not record["error"]:
            found.append((record["arm"], record["seed"], open_run(out / record["path"])))
    return found


def arms_in(out: Path) -> list[Arm]:
    """All arms of a sweep's folder in the order of its file, also those without a run that was measured to the end."""
    runs: dict[str, dict[int, Run]] = {}
    for arm, seed, run in runs_of(out):
        runs.setdefault(arm, {})[seed] = run
    listed = read_json(out / "sweep.json")
    names = listed.get("arms") or list(
        dict.fromkeys(record["arm"] for record in listed["jobs"])
    )  # of an older sweep: those that were begun
    return [Arm(name, runs.get(name, {})) for name in names]
