"""Add measures to a run from its stored samples and real set. Nothing is trained or sampled again."""

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
from difflab.core.rows import STATISTICS, spec_of, statistics_of
from difflab.loop import added_measures as added
from difflab.loop import ecosystem
from difflab.loop.checks import LEFT_OUT
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
    "prompts": "samples of a conditional model (classes or captions)",
}
"""What a measure needs besides the samples, by its `needs`."""


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

    The call can be stopped at any time and repeated. The numbers are the same as if the run had been started
    with the measures. The run stores them in measures.yaml and takes them in later generations too. A
    generation that has samples but was never measured gets all measures. All labs of an ecosystem are
    measured.

    Args:
        metrics: measures by name; empty = the measures of the run, on `extractors`. If it is empty and
            `concepts` is set, it is the concept measures.
        extractors: feature spaces as in measure.extractors; None = those of the run.
        judge, concepts, neighbours, aesthetic: as in the section `measure` of a config; None = as in the run.
        judge_drift: as in the section `measure` of a config.

    Raises:
        MeasureError: a measure cannot be taken, or the run already takes it with other settings.
        ConfigError: a setting is invalid, or the run is one lab of an ecosystem.
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
            f"family {config.model.family} makes no images: every run already has its measures, the moments"
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
    """Check the sections of all labs before any lab is changed, store them, then measure."""
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


def wanted(run: Run, metrics: Sequence[str], options: dict[str, Any], judge_drift: bool) -> Measure:
    """The section `measure` that a call of `measure_run` asks for.

    Args:
        options: the arguments of `measure_run` that are set, by name.

    Raises MeasureError that says what to type.
    """
    sections = [run.config.measure, *added.added(run)]
    names = list(metrics) or _default_metrics(sections, options, judge_drift)
    of_run = dict.fromkeys(chain.from_iterable(section.extractors for section in sections))
    specs = list(options.get("extractors") or of_run)
    needs = {METRICS[name].needs: name for name in reversed(names)}
    if metrics:
        _check_extractors(names, specs)
    judge = options.get("judge")
    if judge is not None and judge not in specs:
        raise MeasureError(
            f"--judge {judge} is not among the extractors {' '.join(specs)}; add: --extractors {judge}"
        )
    concepts = options.get("concepts", run.config.measure.concepts)
    if "concepts" in needs and concepts is None:
        raise MeasureError(
            f"{needs['concepts']} needs --concepts: classes, or a file of names that occur in the captions"
        )
    has_clip = any(spec.startswith("open_clip") for spec in specs)
    if ("concepts" in needs or "aesthetic" in options) and not has_clip:
        raise MeasureError(
            "concepts and aesthetic scores need a CLIP model; add: --extractors open_clip:tiny-clip, "
            "or open_clip:NAME_OR_PATH"
        )
    inherited = run.config.measure.judge if run.config.measure.judge in specs else None
    settings = {
        "judge": inherited,
        "concepts": concepts,
        **options,
        "metrics": names,
        "extractors": specs,
        "judge_drift": judge_drift,
    }
    return parse(run.config.measure.model_dump() | added.NOTHING | settings, "measure", Measure)  # type: ignore[no-any-return]


def _default_metrics(
    sections: Sequence[Measure], options: dict[str, Any], judge_drift: bool
) -> Sequence[str]:
    """The measures of a call that names none."""
    if "concepts" in options:
        return CONCEPTS
    if (judge_drift or "aesthetic" in options) and "extractors" not in options:
        return []  # only the rows of judge drift and the aesthetic score, which have options of their own
    return list(dict.fromkeys(chain.from_iterable(section.metrics for section in sections)))


def _check_extractors(names: Sequence[str], specs: Sequence[str]) -> None:
    """Raise MeasureError for a measure that cannot be taken on any of the extractors."""
    for name in names:
        statistics = METRICS[name].extractor
        if statistics is not None and statistics not in map(statistics_of, specs):
            raise MeasureError(
                f"{name} is measured on the extractor {statistics}; add: --extractors "
                f"{' '.join([*specs, spec_of(statistics)])}"
            )
        if statistics is None and all(map(statistics_of, specs)):
            raise MeasureError(
                f"{name} is not measured on the extractor {specs[0]}; add another, such as --extractors "
                "pixels"
            )


def check(work: Any, sections: Sequence[dict[str, Any]]) -> None:
    """Raise for sections that can never have a value, before they are stored.

    Reports which of the other measures will have no value.
    """
    run = work.run
    for section in sections:
        measure = parse(run.config.measure.model_dump() | added.NOTHING | section, "measure", Measure)
        part = added.view(run, measure)
        check_measure_settings(part.config)
        reasons = unmeasurable(part, extractors_of(part, work.accelerator), work.accelerator)
        for line in left_out(reasons):
            work.report.say(f"{LEFT_OUT}: {line}")


def whole(work: Any) -> None:
    """Take all measures of the generations that have samples but were never measured."""
    run, accelerator = work.run, work.accelerator
    unmeasured = [
        t for t in range(run.config.generations + 1) if run.done(t, "sample") and not run.done(t, "measure")
    ]
    accelerator.wait_for_everyone()  # all processes must look before any of them writes
    for t in unmeasured:
        started = time.perf_counter()
        measure(work, t)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            run.add_time(t, "measure", time.perf_counter() - started, processes=accelerator.num_processes)


def listing(run: Run) -> list[dict[str, Any]]:
    """Every measure and whether the run has it.

    Returns one dict for each measure and extractor:

        metric, extractor: names; the extractor is empty if the run does not have the measure.
        state: 'in the run', 'can be added' or 'cannot be taken'.
        about: why there is no value, or what the measure needs besides the samples.

    Raises MeasureError for a family that makes no images.
    """
    if run.config.exact:
        raise MeasureError(
            f"family {run.config.model.family} makes no images: every run already has its measures, the "
            "moments"
        )
    reasons: dict[tuple[str, str], str | None] = {}  # of the measures in the run; None = it has a value
    for row in chain.from_iterable(part.rows() for part in run.parts):
        if row["extractor"] not in ("none", "training"):
            key = row["metric"], row["extractor"]
            reasons[key] = None if row["value"] is not None else reasons.get(key, row["reason"])
    measures = [
        {"metric": metric, "extractor": extractor, "state": "in the run", "about": reason or ""}
        for (metric, extractor), reason in sorted(reasons.items())
    ]
    no_classes = _no_classes(run.parts[0])
    known = {measure_name(metric) for metric, _ in reasons}
    for name in sorted(set(METRICS) - known):
        needs, statistics = METRICS[name].needs, METRICS[name].extractor
        state, about = (
            "can be added",
            ABOUT.get(needs, f"--extractors {spec_of(statistics)}" if statistics else ""),
        )
        if needs == "judge" and no_classes is not None:
            state, about = "cannot be taken", no_classes
        measures.append({"metric": name, "extractor": "", "state": state, "about": about})
    return measures


def _no_classes(run: Run) -> str | None:
    """The reason why no judge can be fitted to the classes of the real images; None = there is none."""
    labels = run.real.labels()
    if labels is None:
        return "the real images carry no class labels"
    if len(set(labels.tolist())) < 2:
        return "all real images are of one class"
    return None
