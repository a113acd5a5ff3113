"""The chain: generations 0..T with five stages each. A repeated call resumes at the first missing stage.

real set --+
           v
pools --> mix --> train --> sample --> select --> measure --> (pool of the next generation)

The labs of an ecosystem take turns: every lab makes generation t before any lab makes generation t + 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

from difflab.config import Config
from difflab.core.memory import enough_memory, imports_frozen, peak_memory
from difflab.core.progress import Reporter
from difflab.loop import auto, checks, ecosystem, precision
from difflab.loop.ingest import ingest
from difflab.loop.measure import catch_up, collect, measure, open_extractors
from difflab.loop.mix import mix
from difflab.loop.pictures import draw_pictures
from difflab.loop.sample import sample
from difflab.loop.select import select
from difflab.loop.texts import encode_texts
from difflab.loop.train import drop_checkpoint, train
from difflab.loop.work import Work, open_for_work
from difflab.runs.folder import STAGE, STAGES
from difflab.runs.hashes import EVERYTHING, forget_hashes, write_hashes
from difflab.runs.run import EcosystemRun, Run

RUN_STAGE = {"mix": mix, "train": train, "sample": sample, "select": select, "measure": measure}


def run_chain(
    config: Config,
    path: Path,
    report: Reporter | None = None,
    plots: bool = True,
    after_generation: Callable[[Run, int, bool], None] | None = None,
    until: int | None = None,
    *,
    after_stage: Callable[[], None] | None = None,
) -> Run:
    """Run or resume the chain of `config`, or all labs of an ecosystem, in the folder `path`.

    Args:
        report: shows progress and messages; None = silent.
        plots: also draw curves.png, which takes a few seconds.
        after_generation: called in the main process with the run, the generation, and whether the generation
            is new.
        until: the last generation of this call; None = of the chain.
        after_stage: called in the main process when the real set, a stage, a generation and the run are done.

    Raises:
        ConfigError: the config cannot be run; the message names the key to change.
        StoreError: the folder belongs to another recipe, is damaged, or is in use by another process.
        TrainingError: a training diverged.
    """
    checks.check(config)
    report = report or Reporter(quiet=True)
    config = auto.settled(config, path, report.say)
    checks.warn_of_slow_precision(config, report)
    accelerator = precision.accelerator_of(config.train.precision)
    run = open_for_work(config, path, accelerator)
    works = [Work(part, accelerator, report, plots=plots, after_stage=after_stage) for part in run.parts]
    try:
        prepare(run, works)
        works[0].finished()
        last = config.generations if until is None else min(until, config.generations)
        with imports_frozen():
            for t in range(last + 1):
                new = one_generation_of_all(run, works, t)
                if after_generation and accelerator.is_main_process:
                    after_generation(run, t, new)
                works[0].finished()
        if accelerator.is_main_process and last == config.generations:
            finish(run, plots)
        works[0].finished()
    finally:
        for work in works:
            work.tracked.finish()
        run.close()
    return run


def prepare(run: Run, works: list[Work]) -> None:
    """Write the real set, make every check that is possible before a stage runs, and note which stages are
    done.
    """
    for work in works:
        ingest(work.run, work.accelerator, work.report.say)
        if work.main:
            write_hashes(work.run.path / "real", EVERYTHING)
        checks.check_counts(work.run)
        checks.check_shapes(work.run)
        checks.check_model(work.run, work.report)
    if isinstance(run, EcosystemRun):
        ecosystem.check_labs(run)
    for work in works:
        open_extractors(work)
    # All processes look before any stage runs. A process that looked later could find a result that the main
    # process has just written, and skip a stage in which the others wait for it.
    for work in works:
        stages = product(work.generations, STAGES)
        work.done = {(t, stage) for t, stage in stages if work.run.done(t, stage)}
        for t in [t for t, stage in work.done if work.main and stage == "train"]:
            drop_checkpoint(work.run.gen(t))
    works[0].wait()
    for work in works:
        checks.check_measures(work)
        catch_up(work)
        encode_texts(work)
    checks.report_account(works)


def one_generation_of_all(run: Run, works: list[Work], generation: int) -> bool:
    """Make one generation of the chain, or of every lab, with the rows between the labs.

    Returns whether any stage of it is new.
    """
    compared = isinstance(run, EcosystemRun) and run.between(generation).exists()
    works[0].wait()  # all processes must look before any of them writes
    for work in works:
        one_generation(work, generation)
    if isinstance(run, EcosystemRun) and not compared:
        ecosystem.between(run, generation, [work.extractors for work in works], works[0].accelerator)
    return any((generation, stage) not in work.done for work, stage in product(works, STAGES))


def one_generation(work: Work, generation: int) -> None:
    """Run the stages of one generation of one chain or lab that are not done, and draw its pictures."""
    run, accelerator = work.run, work.accelerator
    work.report.lab = run.config.lab if run.config.ecosystem else None
    if work.main and any((generation, stage) not in work.done for stage in STAGES):
        forget_hashes(run.gen(generation))
    for stage in STAGES:
        if (generation, stage) in work.done:
            work.report.skip(generation, stage)
            continue
        started = time.perf_counter()
        with peak_memory(accelerator.device) as peak, enough_memory(stage, STAGE[stage].lower):
            detail = RUN_STAGE[stage](work, generation) or {}
        work.wait()
        if work.main:
            seconds = time.perf_counter() - started
            run.add_time(generation, stage, seconds, processes=accelerator.num_processes, **peak, **detail)
        work.finished()
    draw_pictures(work, generation)
    if work.main:
        write_hashes(run.gen(generation))
        work.tracked.log(generation)


def finish(run: Run, plots: bool) -> None:
    """Write the files beside the generations: metrics.jsonl, and the pictures of an ecosystem.

    Lists the hashes of the real set's features, and deletes the cache of decoded pixels.
    """
    for part in run.parts:
        write_hashes(part.path / "real", EVERYTHING)
        collect(part)
    if isinstance(run, EcosystemRun):
        ecosystem.finish(run, plots)
    run.drop_cache()
