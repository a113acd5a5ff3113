"""Run the jobs of a study in this process, or in worker processes of this machine."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from queue import Queue
from typing import Any

import torch

from difflab.studies.job import Job, Record, decided, groups, record_of, with_values, work

NEEDED = ("diffusers.hooks", "sklearn.linear_model", "matplotlib")
"""What jobs that denoise import later. A worker that waits for generation 0 imports it meanwhile."""


@dataclass(frozen=True)
class Local:
    """This machine as an engine, see `executors.engine.Engine`.

    Attributes:
        workers: number of processes; None = one per GPU, or without a GPU one. One worker runs in this
            process.
    """

    workers: int | None = None

    def run(
        self,
        listed: Sequence[Job],
        out: Path,
        note: Callable[[Job, Record], None],
        report: Callable[[Job], Any] | None = None,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """Run jobs group by group, see `executors.engine.Engine.run`."""
        gpus = torch.cuda.device_count()
        workers = self.workers or max(1, gpus)
        threads = torch.get_num_threads()
        torch.set_num_threads(threads if workers == 1 else threads_of(workers))  # as where the jobs will run
        try:
            values = decided(listed, say)
        finally:
            torch.set_num_threads(threads)
        listed = [with_values(job, found) for job, found in zip(listed, values, strict=True)]
        if workers > 1:
            _run_in_processes(listed, out, note, workers, gpus)
            return
        for group in groups(listed):
            for job in group:
                note(job, work(job, out, report(job) if report else None))


def threads_of(workers: int) -> int:
    """Threads of torch in each of several processes."""
    return max(1, (os.cpu_count() or 1) // workers)


def _run_in_processes(
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
