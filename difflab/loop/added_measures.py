"""Measures that are added to a run after its start. measures.yaml stores one section of settings per feature
space.

Added measures do not affect training, so they are not part of the run's recipe. Each row has its own recipe.
The recipe and the number are the same as if the run had been started with the measure. The command `measure`
takes the added measures in every generation. A chain that resumes or extends the run takes them too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from accelerate import Accelerator

from difflab import config as configs
from difflab.config import Measure
from difflab.core.errors import ConfigError, MeasureError, StoreError
from difflab.core.files import write_text
from difflab.core.rows import Row, statistics_of
from difflab.loop.image_rows import AESTHETIC, measure_images
from difflab.loop.judge_drift_rows import JUDGES
from difflab.loop.run_extractors import extractors_of
from difflab.metrics.metric import METRICS
from difflab.metrics.row_name import row_name
from difflab.runs.run import Run

FILE = "measures.yaml"
NOTHING: dict[str, Any] = {
    "metrics": [],
    "judge": None,
    "concepts": None,
    "judge_drift": False,
    "aesthetic": None,
}
"""The settings of a section that asks for no measure."""
Opened = tuple[Run, list[Any]]
"""The run with the measures of one added section only, and the opened extractors of that section."""


def added(run: Run) -> list[Measure]:
    """The added sections, in order. `count` and `resamples` are those of the run.

    Raises StoreError if measures.yaml is damaged.
    """
    path = run.path / FILE
    if not path.exists():
        return []
    try:
        return [
            configs.parse(run.config.measure.model_dump() | NOTHING | section, str(path), Measure)
            for section in yaml.safe_load(path.read_text())
        ]
    except (yaml.YAMLError, TypeError, ValueError, ConfigError) as error:
        raise StoreError(
            f"{path} is damaged ({' '.join(str(error).split())[:120]}); delete it and add the measures again"
        ) from error


def add(run: Run, sections: Sequence[dict[str, Any]]) -> None:
    """Append sections to measures.yaml."""
    path = run.path / FILE
    before = yaml.safe_load(path.read_text()) if path.exists() else []
    write_text(path, yaml.safe_dump([*before, *sections], sort_keys=False))


def taken(measure: Measure) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows that these settings make, in order: (measure, extractor) -> the other settings that the row
    depends on.
    """
    specs, judge = measure.feature_extractors, measure.judge_extractor
    clip = next((spec for spec in specs if spec.startswith("open_clip")), None)
    settings: dict[tuple[str, str], dict[str, Any]] = {}
    for name in measure.metrics:
        needs, statistics = METRICS[name].needs, METRICS[name].extractor
        special: dict[str, list[str | None]] = {"judge": [judge], "concepts": [clip]}
        readers = special.get(needs, [*specs])
        if statistics:
            readers = [spec for spec in measure.statistics_extractors if statistics_of(spec) == statistics]
        for spec in readers:
            if spec is None:
                continue
            settings[name, spec] = {"neighbours": measure.neighbours}
            if needs == "concepts":
                settings[name, spec]["concepts"] = measure.concepts
    if measure.judge_drift and judge is not None:
        settings["judge_drift", judge] = {}
    if measure.aesthetic is not None and clip is not None:
        settings["aesthetic", clip] = {"aesthetic": measure.aesthetic}
    return settings


def lacking(run: Run, wanted: Measure) -> list[dict[str, Any]]:
    """The sections to add so that the run takes all measures of `wanted`: one section per extractor.

    Raises MeasureError if the run already takes a measure with other settings, because a run has one number
    per measure and extractor.
    """
    present: dict[tuple[str, str], dict[str, Any]] = {}
    for before in (run.config.measure, *added(run)):
        present |= taken(before)
    sections: dict[str, dict[str, Any]] = {}
    for (name, spec), settings in taken(wanted).items():
        if (name, spec) in present:
            known = present[name, spec]
            other = next((key for key in settings if settings[key] != known[key]), None)
            if other is not None:
                raise MeasureError(
                    f"{name} ({spec}) is in this run with {other} {known[other]}, not {settings[other]}: a "
                    "run has one number for each measure and extractor; name only measures that the run "
                    f"does not have, or leave --{other} out"
                )
            continue
        section = sections.setdefault(
            spec, {"extractors": [spec], "metrics": [], "neighbours": wanted.neighbours}
        )
        if name in ("judge_drift", "aesthetic"):
            section[name] = getattr(wanted, name)
        else:
            section["metrics"].append(name)
            if "concepts" in settings:
                section["concepts"] = wanted.concepts
    return list(sections.values())


def view(run: Run, measure: Measure) -> Run:
    """A copy of the run whose config has these measures."""
    labs = run.labs
    changed = copy.copy(run)
    changed.config = run.config.model_copy(update={"measure": measure})
    changed._labs = labs
    return changed


def opened(run: Run, accelerator: Accelerator) -> list[Opened]:
    """Open the extractors of every added section and extract the features of the real set.

    All processes take part.
    """
    views = [view(run, section) for section in added(run)]
    return [(part, extractors_of(part, accelerator)) for part in views]


def missing(more: Sequence[Opened], rows: Sequence[Row]) -> list[Opened]:
    """The sections with a row that is not among `rows`, the rows of one generation."""
    known = {(row["metric"], row["extractor"]) for row in rows}
    return [(part, extractors) for part, extractors in more if not expected(part, extractors) <= known]


def expected(run: Run, extractors: Sequence[Any]) -> set[tuple[str, str]]:
    """(measure, extractor) of the rows of one section, as metrics.jsonl names them."""
    (extractor,) = extractors
    names = [row_name(name, extractor.name) for name in run.config.measure.metrics]
    names += JUDGES if run.config.measure.judge_drift else []
    names += [AESTHETIC.name] if run.config.measure.aesthetic is not None else []
    return {(name, extractor.name) for name in names}


def rows_of(
    more: Sequence[Opened],
    generation: int,
    before: Sequence[Row],
    accelerator: Accelerator,
    advance: Callable[[int], None],
) -> list[Row]:
    """The rows of the sections for one generation, except those that are in `before`."""
    known = {(row["metric"], row["extractor"]) for row in before}
    rows: list[Row] = []
    for part, extractors in more:
        rows += measure_images(part, generation, extractors, accelerator, advance)
    return [row for row in rows if (row["metric"], row["extractor"]) not in known]
