"""The curves of a report as plain data, grouped by what they are about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from difflab.core.rows import RowKind
from difflab.loop.image_rows import FLAGGED
from difflab.loop.row_kinds import row_kinds
from difflab.metrics import METRICS
from difflab.report.rounding import rounded
from difflab.report.table import number
from difflab.studies.compare_runs import Arm, compare_runs

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
RowsByArm = dict[str, list[dict[str, Any]]]
"""The rows of one measure by the name of the arm, in order of generations."""


def group_of(metric: str) -> str:
    """The heading under which the curve of a measure stands.

    >>> group_of("recall"), group_of("gradient_norm"), group_of("held_out_loss")
    ('Diversity', 'Training', 'Tails and likelihood')
    """
    topic = kind_of(metric).topic
    if topic:
        return topic
    for group, metrics in GROUPS.items():
        if metric in metrics:
            return group
    return BY_NEED.get(METRICS[metric].needs, "Other") if metric in METRICS else "Other"


def kind_of(metric: str) -> RowKind:
    """The meaning of a row. A name that no code of this installation declares gets one that says nothing."""
    unknown = RowKind(metric, unit="", better="none", about="", topic="Other")
    return row_kinds().get(metric, unknown)


def chart_groups(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """The groups that have a curve or a note: [{title, charts, note}].

    An arm of several seeds is drawn as its mean over seeds. Flagged images are a check and not a result:
    they have no curve where there are none.
    """
    rows = _rows_by_measure(arms)
    several = len({extractor for _, extractor in rows} - set(UNNAMED)) > 1
    groups: dict[str, dict[str, Any]] = {
        title: {"title": title, "charts": [], "note": ""} for title in GROUPS
    }
    for (metric, extractor), rows_by_arm in rows.items():
        if metric != FLAGGED.name or any(row["value"] for row in chain(*rows_by_arm.values())):
            chart = _chart(metric, extractor, rows_by_arm, arms, several)
            groups[chart["group"]]["charts"].append(chart)
    if not all(_exact(arm) for arm in arms):
        groups["Memorisation"]["note"] = missing_copies_note({metric for metric, _ in rows})
    return [group for group in groups.values() if group["charts"] or group["note"]]


def _exact(arm: Arm) -> bool:
    """Whether an arm is of an exact family, which has no images."""
    return all(run.config.exact for run in arm.runs.values())


def _rows_by_measure(arms: Sequence[Arm]) -> dict[tuple[str, str], RowsByArm]:
    """The rows that have a value, by (measure, extractor) and by arm."""
    rows: dict[tuple[str, str], RowsByArm] = {}
    for arm in arms:
        for row in _rows(arm):
            if row["value"] is not None:
                rows.setdefault((row["metric"], row["extractor"]), {}).setdefault(arm.name, []).append(row)
    return rows


def _rows(arm: Arm) -> list[dict[str, Any]]:
    """The rows of a single run with intervals over images, or means over seeds with intervals over seeds."""
    if len(arm.runs) == 1:
        return next(iter(arm.runs.values())).rows()
    common = set.intersection(*(set(run.generations) for run in arm.runs.values()))
    measured: set[str] = set()
    for run in arm.runs.values():
        measured |= {row["metric"] for row in run.rows() if row["value"] is not None}
    return compare_runs([arm], sorted(measured), sorted(common)) if common else []


def missing_copies_note(measured: set[str]) -> str:
    """A sentence for runs in which no measure compares samples with training images, else ''."""
    known = [name for name, metric in METRICS.items() if metric.needs in ("train", "own")]
    if measured & set(known):
        return ""
    return (
        "No measure compares samples with training images. To look for copies, add one of these to "
        f"measure.metrics: {', '.join(known)}."
    )


def _chart(
    metric: str, extractor: str, rows_by_arm: RowsByArm, arms: Sequence[Arm], several: bool
) -> dict[str, Any]:
    """One curve per arm, with what the page says about the measure.

    Args:
        several: the page shows several feature spaces.
    """
    kind = kind_of(metric)
    counts = "chains" if extractor == "model" else kind.counts
    floor = first_floor(chain(*rows_by_arm.values()))
    lines = []
    for i, arm in enumerate(arms):
        if arm.name in rows_by_arm:
            over = "seeds" if len(arm.runs) > 1 else counts
            lines.append({"arm": i, **_line(rows_by_arm[arm.name]), "over": over})
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
        "says": _in_words(kind.label, next(iter(rows_by_arm.values())), floor),
    }


def _line(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The points of a curve: generations, values, both ends of the 95% intervals and n."""
    return {
        "t": [row["generation"] for row in rows],
        "value": [rounded(row["value"]) for row in rows],
        "low": [rounded(row["ci_low"]) for row in rows],
        "high": [rounded(row["ci_high"]) for row in rows],
        "n": [row.get("n") or row.get("seeds") for row in rows],
    }


def first_floor(rows: Iterable[dict[str, Any]]) -> float | None:
    """The first floor among these rows; None = none has one."""
    return next((row["floor"] for row in rows if row["floor"] is not None), None)


def titled(title: str, extractor: str, several: bool) -> str:
    """The title of a curve, with its extractor where the page shows several feature spaces."""
    return f"{title} ({extractor})" if several and extractor not in UNNAMED else title


def _in_words(title: str, rows: list[dict[str, Any]], floor: float | None) -> str:
    """A curve as a sentence for screen readers."""
    start, end = rows[0], rows[-1]
    text = f"{title}: {number(start['value'])} in generation {start['generation']}"
    if end is not start:
        text += f", {number(end['value'])} in generation {end['generation']}"
    return text + (f"; floor {number(floor)}" if floor is not None else "")
