"""Stage 5, measure: computes the rows of a generation, with n, floor and 95% interval.

Features are extracted once for all measures. The half-samples of the intervals are divided among all
processes. Measures that were added to the run later (see added_measures.py) are computed in the same stage.
"""

from __future__ import annotations

from collections.abc import Sequence

from difflab.core.rows import Row, read_rows, write_lines
from difflab.loop import added_measures as added
from difflab.loop.exact_rows import measure_exact
from difflab.loop.image_rows import measure_images
from difflab.loop.run_extractors import extractors_of
from difflab.loop.training_rows import measure_training
from difflab.loop.work import Work
from difflab.models import family_of
from difflab.runs.run import Run


def measure(work: Work, generation: int) -> None:
    """Stage 5 of one generation: write its rows and metrics.jsonl of the run. All processes take part."""
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
            rows = measure_exact(run, generation, model) if work.main else []
        else:
            rows = measure_images(run, generation, work.extractors, work.accelerator, advance)
        if work.main:
            rows += measure_training(run, generation)
        rows += added.rows_of(work.more, generation, rows, work.accelerator, advance)
    if work.main:
        write_rows(run, generation, rows)


def open_extractors(work: Work) -> None:
    """Open the extractors of the config and those of the measures that were added later."""
    work.extractors = extractors_of(work.run, work.accelerator)
    work.more = [] if work.run.config.exact else added.opened(work.run, work.accelerator)


def catch_up(work: Work) -> None:
    """Compute added measures for the generations that were measured before the measures were added."""
    run = work.run
    rows = {t: read_rows(run.gen(t) / "metrics.jsonl") for t in run.generations} if work.more else {}
    missing = {t: added.missing(work.more, before) for t, before in rows.items()}
    work.wait()  # no process may write before all have read the rows
    for t, more in missing.items():
        if more:
            total = sum(len(part.config.measure.metrics) for part, _ in more)
            with work.report.stage(t, "measure", total, "measures") as advance:
                new_rows = added.rows_of(more, t, rows[t], work.accelerator, advance)
            if work.main:
                write_rows(run, t, rows[t] + new_rows)


def write_rows(run: Run, generation: int, rows: Sequence[Row]) -> None:
    """Write the rows of a generation, and write metrics.jsonl of the whole run again."""
    path = run.gen(generation) / "metrics.jsonl"
    write_lines(path, [{**row, "lab": run.config.lab} for row in rows])
    collect(run)


def collect(run: Run) -> None:
    """Write metrics.jsonl of the whole run from the files of its generations."""
    write_lines(run.path / "metrics.jsonl", run.rows())
