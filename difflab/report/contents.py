"""What a report shows, as plain data: the verdict, the curves, and of every arm its pictures, its map, its concepts, its cost.

Nothing here knows of HTML, and everything is strings, numbers, lists and dicts, so that it can be looked at, tested and saved as JSON.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from difflab.core.errors import ConfigError, StoreError
from difflab.core.rows import RowKind
from difflab.loop.row_kinds import row_kinds
from difflab.metrics import METRICS
from difflab.report.detail import detail
from difflab.report.pictures import in_common
from difflab.report.rounding import rounded
from difflab.report.table import number
from difflab.runs.run import EcosystemRun, Run
from difflab.studies.budgets import budgets
from difflab.studies.compare_runs import Arm, arms_of, compare_runs

GROUPS = {
    "Diversity": (
        "recall",
        "coverage",
        "vendi",
        "knn_entropy",
        "trace_ratio",
        "logdet_ratio",
        "within_class_ratio",
        "class_entropy",
        "repeats",
        "spacing_ratio",
    ),
    "Concepts": ("class_accuracy", "class_margin", "between_class_ratio"),
    "Fidelity": ("fd", "fd_infinity", "kid", "cmmd", "cmmd_biased", "precision", "density"),
    "Aesthetics and texture": (),
    "Tails and likelihood": (
        "tail_recall",
        "rare_class_survival",
        "concept_survival",
        "rare_concept_survival",
    ),
    "Memorisation": (),
    "Between labs": (),
    "Fitted distribution": (),
    "Other": (),
    "Training": (),
}
"""The headings of the curves in their order, with the measures under each that `BY_NEED` does not place."""
BY_NEED = {
    "concepts": "Concepts",
    "judge": "Concepts",
    "texture": "Aesthetics and texture",
    "train": "Memorisation",
    "own": "Memorisation",
    "prompts": "Diversity",
}
"""The heading of other measures by what they need (`PairMetric.needs`)."""
UNNAMED = ("none", "training", "texture")
"""Extractors that the title of a curve does not name."""
DETAILED = 8
"""Arms whose pictures are shown."""


def contents(
    runs: Sequence[Run],
    names: Sequence[str] | None = None,
    verdict: Callable[[Run], dict[str, Any] | None] | None = None,
) -> dict[str, Any]:
    """Everything that a report of `runs` shows. An ecosystem counts as its labs.

    Args:
        names: the arm of each run, as for `difflab.studies.compare_runs.arms_of`.
        verdict: the diagnosis of a run as plain data, None where it has none; None = no diagnoses.

    Raises StoreError where there is nothing to show.
    """
    runs, names = _labs(runs, names)
    if not any(run.generations for run in runs):
        raise StoreError(
            f"{runs[0].path} has no measured generation yet; go on with difflab run, then make the report"
        )
    runs, names = _measured(runs, names)
    arms = arms_of(runs, names)
    shown = [next(iter(arm.runs.values())) for arm in arms][:DETAILED]
    last = max(t for run in runs for t in run.generations)
    compared = _compared(arms) if len(arms) > 1 else None
    details = [detail(arm.name, run, len(shown), verdict) for arm, run in zip(arms, shown, strict=False)]
    pictures = [one["pictures"] for one in details if one["pictures"]]
    return {
        "title": ", ".join(arm.name for arm in arms[:4])
        + (f" and {len(arms) - 4} more" if len(arms) > 4 else ""),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "version": version("difflab"),
        "generations": list(range(last + 1)),
        "planned": max(run.config.generations for run in runs),
        "arms": [{"name": arm.name, "seeds": sorted(arm.runs)} for arm in arms],
        "left": [arm.name for arm in arms[DETAILED:]],
        "groups": _groups(arms),
        "runs": details,
        "fewer": in_common(pictures) if pictures else "",
        "compared": compared,
        "budget": budgets(arms) if len(arms) > 1 else None,
    }


def _labs(runs: Sequence[Run], names: Sequence[str] | None) -> tuple[list[Run], list[str] | None]:
    """The runs with ecosystems taken apart; the names of labs are then given."""
    if not any(isinstance(run, EcosystemRun) for run in runs):
        return list(runs), None if names is None else list(names)
    own = names or [run.config.name for run in runs]
    parts = [
        (lab, f"{name}, lab {i}" if len(run.parts) > 1 else name)
        for run, name in zip(runs, own, strict=True)
        for i, lab in enumerate(run.parts)
    ]
    return [lab for lab, _ in parts], [name for _, name in parts]


def _measured(runs: list[Run], names: list[str] | None) -> tuple[list[Run], list[str] | None]:
    """Those that have a measured generation."""
    kept = [i for i, run in enumerate(runs) if run.generations]
    return [runs[i] for i in kept], None if names is None else [names[i] for i in kept]


# ---------------------------------------------------------------------------------------------------------- curves
def group_of(metric: str) -> str:
    """The heading under which the curve of a measure stands.

    >>> group_of("recall"), group_of("gradient_norm"), group_of("held_out_loss")
    ('Diversity', 'Training', 'Tails and likelihood')
    """
    kind = row_kinds().get(metric)
    if kind is not None and kind.topic:
        return kind.topic
    for group, metrics in GROUPS.items():
        if metric in metrics:
            return group
    return BY_NEED.get(METRICS[metric].needs, "Other") if metric in METRICS else "Other"


def _groups(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Curves by heading: of every measure its points per arm, the mean over seeds where there are several.

    Flagged images are a check, not a result: they have no curve where there are none.
    """
    found: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for arm in arms:
        for row in _rows(arm):
            if row["value"] is not None:
                found.setdefault((row["metric"], row["extractor"]), {}).setdefault(arm.name, []).append(row)
    spaces = {extractor for _, extractor in found} - set(UNNAMED)
    charts = [
        _chart(metric, extractor, own, arms, len(spaces) > 1)
        for (metric, extractor), own in found.items()
        if metric != "flagged_share" or any(row["value"] for rows in own.values() for row in rows)
    ]
    groups: list[dict[str, Any]] = [
        {"title": title, "charts": [c for c in charts if c["group"] == title], "note": ""} for title in GROUPS
    ]
    if not all(run.config.exact for arm in arms for run in arm.runs.values()):
        next(group for group in groups if group["title"] == "Memorisation")["note"] = _not_looked_for(
            [c["metric"] for c in charts]
        )
    return [group for group in groups if group["charts"] or group["note"]]


def _not_looked_for(taken: Sequence[str]) -> str:
    """A line where none of the measures compares samples with training images, one by one."""
    known = [name for name, metric in METRICS.items() if metric.needs in ("train", "own")]
    if set(taken) & set(known):
        return ""
    return (
        "No measure compares samples with training images. To look for copies, add one of these to measure.metrics: "
        f"{', '.join(known)}."
    )


def _rows(arm: Arm) -> list[dict[str, Any]]:
    """The rows of an arm: a single run's own with intervals over images, several seeds' means with intervals over seeds."""
    if len(arm.runs) == 1:
        return next(iter(arm.runs.values())).rows()
    common = set.intersection(*(set(run.generations) for run in arm.runs.values()))
    metrics = {row["metric"] for run in arm.runs.values() for row in run.rows() if row["value"] is not None}
    return compare_runs([arm], sorted(metrics), sorted(common)) if common else []


def _chart(
    metric: str, extractor: str, rows: dict[str, list[dict[str, Any]]], arms: Sequence[Arm], several: bool
) -> dict[str, Any]:
    kind = row_kinds().get(metric, RowKind(metric, unit="", better="", about="", topic="Other"))
    first = next(iter(rows.values()))
    floor = next((row["floor"] for own in rows.values() for row in own if row["floor"] is not None), None)
    lines = [
        {
            "arm": i,
            "t": [row["generation"] for row in rows[arm.name]],
            "value": [rounded(row["value"]) for row in rows[arm.name]],
            "low": [rounded(row["ci_low"]) for row in rows[arm.name]],
            "high": [rounded(row["ci_high"]) for row in rows[arm.name]],
            "n": [row.get("n") or row.get("seeds") for row in rows[arm.name]],
            "over": "seeds" if len(arm.runs) > 1 else kind.counts,
        }
        for i, arm in enumerate(arms)
        if arm.name in rows
    ]
    return {
        "metric": metric,
        "extractor": extractor,
        "title": titled(kind.label, extractor, several),
        "group": group_of(metric),
        "about": kind.about,
        "unit": kind.unit,
        "better": kind.better,
        "floor": rounded(floor),
        "lines": lines,
        "says": _says(kind.label, first, floor),
    }


def _says(title: str, rows: list[dict[str, Any]], floor: float | None) -> str:
    """A curve in words, for those who do not see it."""
    start, end = rows[0], rows[-1]
    text = f"{title}: {number(start['value'])} in generation {start['generation']}"
    if end is not start:
        text += f", {number(end['value'])} in generation {end['generation']}"
    return text + (f"; floor {number(floor)}" if floor is not None else "")


def _compared(arms: Sequence[Arm]) -> dict[str, Any]:
    """One row per measure with a cell per arm, in the last generation that all arms have.

    {generation, paired, rows: [{metric, title, better, floor, cells}]}; `paired` says whether any difference has an
    interval. {error} where the arms have no generation in common.
    """
    try:
        results = compare_runs(arms)
    except ConfigError as error:
        return {"error": str(error)}
    kinds = row_kinds()
    several = len({row["extractor"] for row in results} - set(UNNAMED)) > 1
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for result in results:
        metric, extractor = result["metric"], result["extractor"]
        title, better = metric.replace("_", " "), ""
        if metric in kinds:
            title, better = kinds[metric].label, kinds[metric].better
        row = rows.setdefault(
            (metric, extractor),
            {
                "metric": metric,
                "title": titled(title, extractor, several),
                "better": better,
                "floor": None,
                "cells": [],
            },
        )
        if row["floor"] is None:
            row["floor"] = rounded(result["floor"])
        row["cells"].append(_cell(result))
    return {
        "generation": results[0]["generation"],
        "paired": any(result["diff_low"] is not None for result in results),
        "rows": list(rows.values()),
    }


def _cell(result: dict[str, Any]) -> dict[str, Any]:
    """What a table of arms shows of one arm and measure. `effect`: 'higher', 'lower' or, where neither is told, ''."""
    keys = ("value", "ci_low", "ci_high", "difference", "diff_low", "diff_high")
    effect = result["verdict"].split()[0] if result["verdict"] else ""
    return {key: rounded(result[key]) for key in keys} | {
        "seeds": result["seeds"],
        "effect": effect if effect in ("higher", "lower") else "",
    }


def titled(title: str, extractor: str, several: bool) -> str:
    """The title of a curve, with its extractor where a page shows several."""
    return f"{title} ({extractor})" if several and extractor not in UNNAMED else title
