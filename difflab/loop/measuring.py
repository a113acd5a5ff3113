"""Stage 5, measure: the numbers of one generation, with those that were added to the run later."""

from __future__ import annotations

from difflab.core.rows import read_rows
from difflab.loop import added_measures as added
from difflab.loop import measure as measuring
from difflab.loop.work import Work
from difflab.models import family_of


def measure(work: Work, generation: int) -> None:
    """Stage 5: the numbers of t."""
    run = work.run
    total = sum(
        len(extractors) * len(part.config.measure.metrics)
        for part, extractors in [(run, work.extractors), *work.more]
    )
    with work.report.stage(generation, "measure", total, "measures") as advance:
        if run.config.exact:
            model = family_of(run.config.model).load(
                run.config.model, run.shape, run.gen(generation) / "model"
            )
            rows = measuring.measure_exact(run, generation, model) if work.main else []
        else:
            rows = measuring.measure_images(run, generation, work.extractors, work.accelerator, advance)
        rows += measuring.measure_training(run, generation) if work.main else []
        rows += added.rows_of(work.more, generation, rows, work.accelerator, advance)
    if work.main:
        measuring.write_rows(run, generation, rows)


def open_extractors(work: Work) -> None:
    """Those that the run was asked for, and those of measures that were added to it."""
    work.extractors = measuring.extractors_of(work.run, work.accelerator)
    work.more = [] if work.run.config.exact else added.opened(work.run, work.accelerator)


def catch_up(work: Work) -> None:
    """Added measures of generations that were measured before these were asked for."""
    run = work.run
    rows = {t: read_rows(run.gen(t) / "metrics.jsonl") for t in run.generations} if work.more else {}
    lacking = {t: added.missing(work.more, before) for t, before in rows.items()}
    work.wait()  # all have looked before one of them writes
    for t, more in lacking.items():
        if more:
            with work.report.stage(
                t, "measure", sum(len(part.config.measure.metrics) for part, _ in more), "measures"
            ) as advance:
                fresh = added.rows_of(more, t, rows[t], work.accelerator, advance)
            if work.main:
                measuring.write_rows(run, t, rows[t] + fresh)
