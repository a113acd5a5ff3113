"""Add measures to a run: from its stored samples and real set, without training or drawing anything again."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import chain, product
from typing import Any

import torch
from accelerate import Accelerator

from difflab.config import Measure, parse
from difflab.core.errors import ConfigError, MeasureError
from difflab.core.progress import Reporter
from difflab.core.rows import STATISTICS
from difflab.loop import added_measures as added
from difflab.loop import ecosystem
from difflab.loop.measure import catch_up, measure, open_extractors
from difflab.loop.run_extractors import check_measure_settings, extractors_of
from difflab.loop.unmeasurable import unmeasurable
from difflab.loop.work import Work, open_for_work
from difflab.metrics.defaults import CONCEPTS
from difflab.metrics.evaluate import left_out
from difflab.metrics.metric import METRICS
from difflab.metrics.row_name import measure_name
from difflab.runs.run import EcosystemRun, Run, open_run

ABOUT = {
    "concepts": "--concepts classes or a file, on an extractor open_clip:NAME",
    "judge": f"class labels, and another extractor than {' or '.join(STATISTICS)}",
    "prompts": "samples that are asked for by class or caption",
}
"""What a measure wants besides the samples, by its `needs`."""


def measure_run(
    run: Run | str | os.PathLike[str],
    metrics: Sequence[str] = (),
    *,
    extractors: Sequence[str] | None = None,
    judge: str | None = None,
    concepts: str | None = None,
    neighbours: int | None = None,
    judge_drift: bool = False,
    aesthetic: str | None = None,
    report: Reporter | None = None,
) -> Run:
    """Take further measures of every generation that has samples, and return the run.

    The call can be stopped at any time and repeated. The numbers are those of a run that was asked for them
    from the start. The run remembers the measures (measures.yaml) and takes them in later generations too. A
    generation whose samples are there but that was never measured gets all measures. All labs of an ecosystem
    are measured.

    Args:
        metrics: measures by name; none = those that the run takes, on the `extractors` that are given here
            (with `concepts`: the concept measures).
        extractors: feature spaces as in measure.extractors; None = those of the run.
        judge, concepts, neighbours, judge_drift, aesthetic: as in the section `measure` of a config; None =
            as in the run.

    Raises:
        MeasureError: a measure cannot be taken, or is there with other settings.
        StoreError: another process works on the run.
    """
    run = run if isinstance(run, Run) else open_run(run)
    _check_measurable(run)
    options = {
        "extractors": extractors,
        "judge": judge,
        "concepts": concepts,
        "neighbours": neighbours,
        "aesthetic": aesthetic,
    }
    options = {name: value for name, value in options.items() if value is not None}
    sections = [added.lacking(part, wanted(part, metrics, options, judge_drift)) for part in run.parts]
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    run = open_for_work(run.config, run.path, accelerator)
    try:
        works = [Work(part, accelerator, report or Reporter(quiet=True)) for part in run.parts]
        _add_and_measure(works, sections)
        if accelerator.is_main_process:
            if isinstance(run, EcosystemRun):
                ecosystem.finish(run, plots=False)
            if run.generations == list(range(run.config.generations + 1)):
                run.drop_cache()
    finally:
        run.close()
    return run


def _check_measurable(run: Run) -> None:
    """Raise MeasureError or ConfigError for a run to which no measures can be added."""
    config = run.config
    if config.exact:
        raise MeasureError(
            f"family {config.model.family} makes no images: its measures are its moments, which every run has"
        )
    if config.ecosystem is not None and config.ecosystem.lab is not None:
        raise ConfigError(
            f"{run.path} is one lab of an ecosystem; measure all of them: difflab measure "
            f"{run.path.resolve().parent}"
        )
    generations = range(config.generations + 1)
    if not any(part.done(t, "sample") for part, t in product(run.parts, generations)):
        raise MeasureError(
            f"{run.path} has no samples yet; make them with: difflab run CONFIG --out {run.path}"
        )


def _add_and_measure(works: list[Work], sections_by_part: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Check the settings in all parts before any is changed, store them, then measure."""
    for work, sections in zip(works, sections_by_part, strict=True):
        check(work, sections)
    for work, sections in zip(works, sections_by_part, strict=True):
        if sections and work.main:
            added.add(work.run, sections)
    works[0].wait()
    for work in works:
        open_extractors(work)
        catch_up(work)
        whole(work)


def wanted(run: Run, metrics: Sequence[str], given: dict[str, Any], judge_drift: bool) -> Measure:
    """The settings that are asked for, as a section `measure` by themselves.

    Raises MeasureError that says what to type.
    """
    sections = [run.config.measure, *added.added(run)]
    own = list(dict.fromkeys(chain.from_iterable(section.metrics for section in sections)))
    alone = judge_drift or "aesthetic" in given  # these are asked for by their own names
    names = list(metrics) or (
        CONCEPTS if "concepts" in given else [] if alone and "extractors" not in given else own
    )
    specs = list(
        given.get("extractors") or dict.fromkeys(spec for section in sections for spec in section.extractors)
    )
    needs = {METRICS[name].needs: name for name in reversed(names)}
    if metrics:
        _check_extractors(names, specs)
    if given.get("judge") is not None and given["judge"] not in specs:
        raise MeasureError(
            f"--judge {given['judge']} is none of the extractors {' '.join(specs)}; add: --extractors "
            f"{given['judge']}"
        )
    concepts = given.get("concepts", run.config.measure.concepts)
    if "concepts" in needs and concepts is None:
        raise MeasureError(
            f"{needs['concepts']} wants --concepts: classes, or a file of names that captions hold"
        )
    if ("concepts" in needs or "aesthetic" in given) and not any(
        spec.startswith("open_clip") for spec in specs
    ):
        raise MeasureError(
            "concepts and aesthetic scores are read by a CLIP model; add: --extractors open_clip:tiny-clip, "
            "or open_clip:NAME_OR_PATH"
        )
    inherited = run.config.measure.judge if run.config.measure.judge in specs else None
    settings = {
        "judge": inherited,
        "concepts": concepts,
        **given,
        "metrics": names,
        "extractors": specs,
        "judge_drift": judge_drift,
    }
    return parse(run.config.measure.model_dump() | added.NOTHING | settings, "measure", Measure)  # type: ignore[no-any-return]


def _check_extractors(names: Sequence[str], specs: Sequence[str]) -> None:
    """Raise MeasureError for a measure that is taken on none of the extractors."""
    for name in names:
        own = METRICS[name].extractor
        if own is not None and own not in specs:
            raise MeasureError(
                f"{name} is measured on the extractor {own}; add: --extractors {' '.join([*specs, own])}"
            )
        if own is None and not set(specs) - set(STATISTICS):
            raise MeasureError(
                f"{name} is not measured on the extractor {specs[0]}; add another, such as --extractors "
                "pixels"
            )


def check(work: Any, sections: Sequence[dict[str, Any]]) -> None:
    """Refuse what can never have a value before it is noted, and say which of the others will have none."""
    run = work.run
    for section in sections:
        measure = parse(run.config.measure.model_dump() | added.NOTHING | section, "measure", Measure)
        part = added.view(run, measure)
        check_measure_settings(part.config)
        lost = unmeasurable(part, extractors_of(part, work.accelerator), work.accelerator)
        for line in left_out(lost):
            work.report.say(f"will be left out, as it cannot even be measured between real images: {line}")


def whole(work: Any) -> None:
    """Measure the generations whose samples are there and that were never measured, as the engine does."""
    run, accelerator = work.run, work.accelerator
    sampled = [
        t for t in range(run.config.generations + 1) if run.done(t, "sample") and not run.done(t, "measure")
    ]
    accelerator.wait_for_everyone()  # all have looked before one of them writes
    for t in sampled:
        started = time.perf_counter()
        measure(work, t)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            run.add_time(t, "measure", time.perf_counter() - started, processes=accelerator.num_processes)


def listing(run: Run) -> list[dict[str, Any]]:
    """Every measure: metric, extractor, state ('in the run' | 'can be added' | 'cannot be taken'), about (why
    not, or what it wants besides).
    """
    if run.config.exact:
        raise MeasureError(
            f"family {run.config.model.family} makes no images: its measures are its moments, which every "
            "run has"
        )
    rows = list(chain.from_iterable(part.rows() for part in run.parts))
    found: dict[tuple[str, str], str | None] = {}
    for row in rows:
        if row["extractor"] not in ("none", "training"):
            key = row["metric"], row["extractor"]
            found[key] = None if row["value"] is not None else found.get(key, row["reason"])
    out = [
        {"metric": m, "extractor": e, "state": "in the run", "about": why or ""}
        for (m, e), why in sorted(found.items())
    ]
    labels = run.parts[0].real.labels()
    known = {measure_name(metric) for metric, _ in found}
    for name in sorted(set(METRICS) - known):
        needs, own = METRICS[name].needs, METRICS[name].extractor
        unlabelled = needs == "judge" and (labels is None or len(set(labels.tolist())) < 2)
        why = (
            (
                "the real images carry no class labels"
                if labels is None
                else "all real images are of one class"
            )
            if unlabelled
            else ABOUT.get(needs, f"--extractors {own}" if own else "")
        )
        out.append(
            {
                "metric": name,
                "extractor": "",
                "state": "cannot be taken" if unlabelled else "can be added",
                "about": why,
            }
        )
    return out
