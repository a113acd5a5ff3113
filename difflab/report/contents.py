"""What a report shows, as plain data: the diagnosis, the curves, the comparison and the details of arms.

Nothing here knows of HTML. Everything is strings, numbers, lists and dicts, so that it can be tested and
saved as JSON.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import chain
from typing import Any

from difflab.config import recipe_of
from difflab.core.errors import ConfigError, StoreError
from difflab.core.rows import TOPICS
from difflab.loop.image_rows import FLAGGED
from difflab.report.charts import UNNAMED, chart_groups, first_floor, kind_of, titled
from difflab.report.detail import detail
from difflab.report.pictures import in_common
from difflab.report.rounding import rounded
from difflab.runs.run import EcosystemRun, Run
from difflab.studies.budgets import budgets
from difflab.studies.compare_runs import Arm, arms_of, compare_runs

DETAILED = 8
"""Arms that have pictures and details on the page."""
TITLED = 4
"""Arms that the title of the page names."""


def contents(
    runs: Sequence[Run],
    names: Sequence[str] | None = None,
    verdict: Callable[[Run], dict[str, Any] | None] | None = None,
) -> dict[str, Any]:
    """Everything that a report of `runs` shows. An ecosystem is shown as its labs.

    Args:
        names: the arm of each run, as for `difflab.studies.compare_runs.arms_of`.
        verdict: a run -> its diagnosis as plain data, or None where it has none; None = no diagnoses.

    Raises:
        StoreError: no run has a measured generation.
    """
    distances = between_labs(runs, names)
    runs, names = labs_of(runs, names)
    if not any(run.generations for run in runs):
        raise StoreError(
            f"{runs[0].path} has no measured generation yet; go on with difflab run, then make the report"
        )
    measured = [i for i, run in enumerate(runs) if run.generations]
    runs = [runs[i] for i in measured]
    arms = arms_of(runs, None if names is None else [names[i] for i in measured])
    detailed = arms[:DETAILED]
    details = [detail(arm.name, next(iter(arm.runs.values())), len(detailed), verdict) for arm in detailed]
    pictures = [shown["pictures"] for shown in details if shown["pictures"]]
    return {
        "title": page_title([arm.name for arm in arms]),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "version": version("difflab"),
        "generations": list(range(max(run.generations[-1] for run in runs) + 1)),
        "planned": max(run.config.generations for run in runs),
        "arms": [{"name": arm.name, "seeds": sorted(arm.runs)} for arm in arms],
        "undetailed": [arm.name for arm in arms[DETAILED:]],
        "groups": chart_groups(arms, distances),
        "runs": details,
        "fewer": in_common(pictures) if pictures else "",
        "compared": compared_arms(arms) if len(arms) > 1 else None,
        "budget": budgets(arms) if len(arms) > 1 else None,
    }


def page_title(names: Sequence[str]) -> str:
    """The names of the first arms.

    >>> page_title(["a", "b"]), page_title(list("abcdef"))
    ('a, b', 'a, b, c, d and 2 more')
    """
    title = ", ".join(names[:TITLED])
    return f"{title} and {len(names) - TITLED} more" if len(names) > TITLED else title


def between_labs(runs: Sequence[Run], names: Sequence[str] | None) -> dict[str, list[dict[str, Any]]]:
    """The rows of ecosystems that belong to no single lab, by the name of the ecosystem."""
    rows = {}
    for run, name in zip(runs, names or [run.config.name for run in runs], strict=True):
        if isinstance(run, EcosystemRun):
            rows[name] = [row for row in run.rows() if row["lab"] is None]
    return rows


def labs_of(runs: Sequence[Run], names: Sequence[str] | None) -> tuple[list[Run], list[str] | None]:
    """The runs and their names, with the labs of an ecosystem in its place. Labs are always named."""
    if not any(isinstance(run, EcosystemRun) for run in runs):
        return list(runs), None if names is None else list(names)
    labs, names_of_labs = [], []
    for run, name in zip(runs, names or [run.config.name for run in runs], strict=True):
        for i, lab in enumerate(run.parts):
            labs.append(lab)
            names_of_labs.append(f"{name}, lab {i}" if len(run.parts) > 1 else name)
    return labs, names_of_labs


def compared_arms(arms: Sequence[Arm]) -> dict[str, Any]:
    """One row per measure with a cell per arm, in the last generation of all arms, ordered as the curves are.

    Returns {settings, generation, paired, rows: [{metric, title, better, floor, cells}]}, where `paired`
    says whether any difference has an interval, or {settings, error} where the arms have no generation in
    common.
    """
    settings = differing_settings(arms)
    try:
        results = compare_runs(arms)
    except ConfigError as error:
        return {"settings": settings, "error": str(error)}
    several = len({result["extractor"] for result in results} - set(UNNAMED)) > 1
    results_by_measure: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        results_by_measure.setdefault((result["metric"], result["extractor"]), []).append(result)
    rows = []
    for (metric, extractor), of_measure in results_by_measure.items():
        if metric == FLAGGED.name and not any(result["value"] for result in of_measure):
            continue
        kind, floor, base = kind_of(metric), first_floor(of_measure), of_measure[0]["value"]
        row: dict[str, Any] = {
            "metric": metric,
            "title": titled(kind.label, extractor, several),
            "better": kind.better,
            "floor": rounded(floor),
            "cells": [_cell(result, kind.better, floor, base) for result in of_measure],
        }
        rows.append(row)
    rows.sort(key=lambda row: TOPICS.index(kind_of(row["metric"]).topic))
    paired = any(result["diff_low"] is not None for result in results)
    generation = results[0]["generation"]
    return {"settings": settings, "generation": generation, "paired": paired, "rows": rows}


def differing_settings(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """The settings that differ between arms: [{key, values}], with a value per arm.

    Names, seeds and the numbers of labs are not compared.
    """
    recipes = [recipe_of(next(iter(arm.runs.values())).config) for arm in arms]
    keys = dict.fromkeys(chain(*recipes))
    rows = []
    for key in keys:
        values = [str(recipe.get(key, "-")) for recipe in recipes]
        if len(set(values)) > 1 and key not in ("seed", "data.split_seed", "ecosystem.lab"):
            rows.append({"key": key, "values": values})
    return rows


def _cell(result: dict[str, Any], better: str, floor: float | None, base: float | None) -> dict[str, Any]:
    """One arm and measure. `effect` is 'higher' or 'lower' than the first arm; '' = cannot be told.

    `tone` says whether the effect is 'better' or 'worse'; '' = neither.
    """
    words = result["verdict"].split()
    effect = words[0] if words and words[0] in ("higher", "lower") else ""
    keys = ("value", "ci_low", "ci_high", "difference", "diff_low", "diff_high")
    cell = {key: rounded(result[key]) for key in keys}
    tone = tone_of(effect, better, floor, base, result["value"]) if effect else ""
    return cell | {"seeds": result["seeds"], "effect": effect, "tone": tone}


def tone_of(effect: str, better: str, floor: float | None, base: float | None, value: float | None) -> str:
    """Whether a value that is 'higher' or 'lower' than `base` is 'better' or 'worse'; '' = neither.

    A measure that is best at its floor is better if it is nearer to the floor.

    >>> tone_of("lower", "lower", None, 2.0, 1.0), tone_of("lower", "real", 1.0, 2.0, -0.5)
    ('better', 'worse')
    """
    if better in ("higher", "lower"):
        return "better" if effect == better else "worse"
    if better != "real" or floor is None or base is None or value is None:
        return ""
    return "better" if abs(value - floor) < abs(base - floor) else "worse"
