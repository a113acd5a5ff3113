"""The curves of a report as plain data, grouped by what they are about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from difflab.core.rows import STATISTICS, TOPICS, RowKind
from difflab.loop.image_rows import FLAGGED
from difflab.loop.row_kinds import row_kinds
from difflab.metrics import METRICS
from difflab.report.rounding import rounded
from difflab.report.table import number
from difflab.studies.compare_runs import Arm, compare_runs

UNNAMED = ("none", "training", *STATISTICS)
"""Extractors that the title of a curve does not name."""
RowsByArm = dict[str, list[dict[str, Any]]]
"""The rows of one measure by the name of the arm, in order of generations."""


def kind_of(metric: str) -> RowKind:
    """The meaning of a row. A name that no code of this installation declares gets one that says nothing."""
    unknown = RowKind(metric, unit="", better="none", about="", topic="Other")
    return row_kinds().get(metric, unknown)


def chart_groups(
    arms: Sequence[Arm], between_labs: Mapping[str, list[dict[str, Any]]] | None = None
) -> list[dict[str, Any]]:
    """The groups that have a curve or a note: [{title, charts, note}].

    An arm of several seeds is drawn as its mean over seeds. Flagged images are a check and not a result:
    they have no curve where there are none.

    Args:
        between_labs: the rows that an ecosystem has for no single lab, by the name of the ecosystem.
    """
    rows = _rows_by_measure({arm.name: _rows(arm) for arm in arms})
    several = len({extractor for _, extractor in rows} - set(UNNAMED)) > 1
    groups: dict[str, dict[str, Any]] = {
        title: {"title": title, "charts": [], "note": ""} for title in TOPICS
    }
    for (metric, extractor), rows_by_arm in rows.items():
        if metric != FLAGGED.name or any(row["value"] for row in chain(*rows_by_arm.values())):
            lines = [_arm_line(arms, i, rows_by_arm[name]) for i, name in _drawn(arms, rows_by_arm)]
            chart = _chart(metric, extractor, rows_by_arm, lines, several)
            groups[chart["group"]]["charts"].append(chart)
    for (metric, extractor), rows_by_name in _rows_by_measure(between_labs or {}).items():
        lines = []
        for i, (name, of_name) in enumerate(rows_by_name.items(), len(arms)):
            lines.append({"arm": i, "name": f"between the labs of {name}", **_line(of_name)})
        chart = _chart(metric, extractor, rows_by_name, lines, several)
        groups[chart["group"]]["charts"].append(chart)
    if not all(_exact(arm) for arm in arms):
        groups["Memorisation"]["note"] = missing_copies_note({metric for metric, _ in rows})
    return [group for group in groups.values() if group["charts"] or group["note"]]


def _drawn(arms: Sequence[Arm], rows_by_arm: RowsByArm) -> list[tuple[int, str]]:
    """The arms that have rows, with their numbers."""
    return [(i, arm.name) for i, arm in enumerate(arms) if arm.name in rows_by_arm]


def _arm_line(arms: Sequence[Arm], i: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The curve of one arm, which counts seeds where it has several."""
    line = {"arm": i, **_line(rows)}
    return line | {"over": "seeds"} if len(arms[i].runs) > 1 else line


def _exact(arm: Arm) -> bool:
    """Whether an arm is of an exact family, which has no images."""
    return all(run.config.exact for run in arm.runs.values())


def _rows_by_measure(rows_by_arm: Mapping[str, list[dict[str, Any]]]) -> dict[tuple[str, str], RowsByArm]:
    """The rows that have a value, by (measure, extractor) and by arm."""
    rows: dict[tuple[str, str], RowsByArm] = {}
    for name, rows_of_arm in rows_by_arm.items():
        for row in rows_of_arm:
            if row["value"] is not None:
                rows.setdefault((row["metric"], row["extractor"]), {}).setdefault(name, []).append(row)
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
    metric: str, extractor: str, rows_by_arm: RowsByArm, lines: list[dict[str, Any]], several: bool
) -> dict[str, Any]:
    """One curve per arm, with what the page says about the measure.

    Args:
        several: the page shows several feature spaces.
    """
    kind = kind_of(metric)
    counts = "chains" if extractor == "model" else kind.counts
    floor = first_floor(chain(*rows_by_arm.values()))
    return {
        "metric": metric,
        "extractor": extractor,
        "title": titled(kind.label, extractor, several),
        "group": kind.topic,
        "about": kind.about,
        "unit": kind.unit,
        "better": kind.better,
        "floor": rounded(floor),
        "lines": [{"over": counts} | line for line in lines],
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
