"""Run the jobs of a study: one job is one chain, executed in this process or in worker processes.

Jobs are run by `groups`: the jobs of a group reuse generation 0 of the first one. In worker processes they
start as soon as it exists. To run a study on a cluster, make generation 0 of the first job of each group
before all other jobs. Every job is one idempotent call of `work`, and jobs share nothing but the output
folder.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from queue import Queue
from typing import Any

import torch

from difflab.config import Config
from difflab.core.errors import DifflabError
from difflab.loop.auto import decide, put
from difflab.loop.chain import run_chain
from difflab.loop.reuse import adopt, keys
from difflab.runs.record import read_record
from difflab.runs.run import Run

Record = dict[str, Any]
"""What is stored of a job: arm, seed, path (relative to the output folder), error (None = it succeeded), and
shared, the stages [generation, stage] that were copied from other runs.
"""


NEEDED = ("diffusers.hooks", "sklearn.linear_model", "matplotlib")
"""What jobs that denoise import later. A worker that waits for generation 0 imports it meanwhile."""


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    arm: str
    seed: int
    config: Config
    path: Path


def groups(listed: Sequence[Job]) -> list[list[Job]]:
    """The jobs that share the training of generation 0, in the order of their first job.

    The labs of an ecosystem depend on each other, so that no stage can be copied: such a job is alone.
    """
    found: dict[str, list[Job]] = {}
    for i, job in enumerate(listed):
        alone = job.config.ecosystem is not None
        found.setdefault(f"alone {i}" if alone else keys(job.config)[0, "train"], []).append(job)
    return list(found.values())


def record_of(job: Job, out: Path, error: str | None = None) -> Record:
    """The record of a job that has shared no stage yet."""
    return {
        "arm": job.arm,
        "seed": job.seed,
        "path": str(job.path.relative_to(out)),
        "error": error,
        "shared": [],
    }


def work(job: Job, out: Path, report: Any = None, until: int | None = None) -> Record:
    """Run or resume one job and return its record.

    Stages that other runs under `out` have finished are copied. The job ends after generation `until`; None =
    with its last one.

    An error of the job is noted in the record. An error that is no DifflabError also leaves a traceback
    beside the run.
    """
    record = record_of(job, out)
    try:
        if job.config.ecosystem is None:  # see `groups`
            run = Run.create(job.path, job.config)
            try:
                record["shared"] = [list(stage) for stage in adopt(run, finished(out))]
            finally:
                run.close()
        run_chain(job.config, job.path, report, plots=False, until=until)  # a study has one plot of all arms
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


def execute(
    listed: Sequence[Job],
    out: Path,
    note: Callable[[Job, Record], None],
    workers: int | None = None,
    report: Callable[[Job], Any] | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Run jobs group by group and pass the record of each to `note` as soon as it ends.

    Args:
        workers: number of processes; None = one per GPU, or without a GPU one. One worker runs in this
            process.
        report: returns the Reporter of a job that runs in this process.
        say: called with a sentence for every precision that was decided, see `loop.auto.decide`.
    """
    gpus = torch.cuda.device_count()
    workers = workers or max(1, gpus)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if workers == 1 else threads_of(workers))  # as where the jobs will run
    try:
        decided = decide([(job.config, job.path) for job in listed], say)
    finally:
        torch.set_num_threads(threads)
    listed = [
        # A job without a decision fails with the same error when it starts, and the others go on.
        job if isinstance(values, DifflabError) else replace(job, config=put(job.config, values))
        for job, values in zip(listed, decided, strict=True)
    ]
    if workers > 1:
        _execute_in_processes(listed, out, note, workers, gpus)
        return
    for group in groups(listed):
        for job in group:
            note(job, work(job, out, report(job) if report else None))


def threads_of(workers: int) -> int:
    """Threads of torch in each of several processes."""
    return max(1, (os.cpu_count() or 1) // workers)


def _execute_in_processes(
    listed: Sequence[Job], out: Path, note: Callable[[Job, Record], None], workers: int, gpus: int
) -> None:
    devices = visible(gpus)
    needed = NEEDED if any(job.config.denoises for job in listed) else ()
    idle: Queue[Worker] = Queue()
    for i in range(workers):
        idle.put(Worker(devices[i % len(devices)] if devices else None, threads_of(workers), needed))

    def run(job: Job, until: int | None = None) -> Record:
        worker = idle.get()
        try:
            return worker.run(job, out, until)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(workers)
    found = groups(listed)
    try:
        # Generation 0 of a group is made first. If it fails, each of its jobs fails by itself.
        starting = {threads.submit(run, group[0], 0): group for group in found if len(group) > 1}
        running = {threads.submit(run, group[0]): group[0] for group in found if len(group) == 1}
        while starting or running:
            for future in wait([*starting, *running], return_when=FIRST_COMPLETED).done:
                if group := starting.pop(future, None):
                    running |= {threads.submit(run, job): job for job in group}
                else:
                    note(running.pop(future), future.result())
    finally:
        threads.shutdown(cancel_futures=True)  # after an interrupt no further job starts
        with ThreadPoolExecutor(workers) as ending:
            ending.map(lambda worker: worker.pool.shutdown(), [idle.get() for _ in range(idle.qsize())])


def visible(gpus: int) -> list[str]:
    """Names of the first `gpus` GPUs of this process for CUDA_VISIBLE_DEVICES: numbers or UUIDs."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = [name.strip() for name in listed if name.strip()]
    return (names or [str(i) for i in range(gpus)])[:gpus]


class Worker:
    """A process that runs one job after another on one GPU, or on its share of the CPU cores.

    It is restarted if it is killed. It imports `needed` before its first job.
    """

    def __init__(self, device: str | None, threads: int, needed: Sequence[str] = ()):
        self.place, self.needed = (device, threads), needed
        self.pool = self.start()

    def start(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _settle, self.place)
        pool.submit(_imported, self.needed)  # the first call starts the process
        return pool

    def run(self, job: Job, out: Path, until: int | None = None) -> Record:
        """The record of a job, see `work`. If the process is killed, the record says so."""
        try:
            return self.pool.submit(work, job, out, None, until).result()
        except BrokenProcessPool:
            self.pool.shutdown()
            self.pool = self.start()
            return record_of(
                job,
                out,
                "its process was killed, usually because memory ran out; the same command with fewer "
                "--workers resumes it",
            )


def _imported(modules: Sequence[str]) -> None:
    """Import modules, and leave all that is imported out of garbage collections.

    A full collection follows every training. It took 0.28 s, and takes a millisecond.
    """
    for module in modules:
        with suppress(ImportError):
            import_module(module)
    gc.freeze()


def _settle(device: str | None, threads: int) -> None:
    """Give a new worker its GPU, before CUDA is initialised, or its number of threads."""
    if device is None:
        torch.set_num_threads(threads)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
