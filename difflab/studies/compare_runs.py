"""Compare runs generation by generation: each arm with the first one, seed by seed, with intervals over
seeds.

The chain is the unit of replication. Samples of one chain share their ancestry, so the interval of a single
run does not say what another seed would give. Differences are paired by seed, because arms of a sweep share
generation 0 and with it the chance of the seed. They have Student's 95% interval over seeds. With one seed
there is none: the verdict is "cannot tell".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from difflab import config as configs
from difflab.core.errors import ConfigError
from difflab.core.hashing import digest
from difflab.metrics import METRICS
from difflab.metrics.row_name import measure_name
from difflab.runs.run import Run

DISTINCT, SAME, UNKNOWN = "{} than {}", "not distinguishable", "cannot tell"

Key = tuple[int, str, str]
"""Generation, metric, extractor."""
Reading = tuple[float, float | None]
"""Value and noise floor."""


@dataclass(frozen=True)
class Arm:
    """The runs of one recipe, by seed."""

    name: str
    runs: dict[int, Run]


def arms_of(runs: Sequence[Run], names: Sequence[str] | None = None) -> list[Arm]:
    """Runs grouped into arms, in order of appearance.

    Raises ConfigError for two runs of one arm and one seed.

    Args:
        names: the arm of each run; None = runs whose recipes differ in the seed alone are one arm, see
            `_arm_names`.
    """
    if names is None:
        names = _arm_names(runs)
    runs_by_arm: dict[str, dict[int, Run]] = {}
    for name, run in zip(names, runs, strict=True):
        by_seed = runs_by_arm.setdefault(name, {})
        seed = run.config.seed
        if seed in by_seed:
            raise ConfigError(
                f"{run.path} and {by_seed[seed].path} are one arm ({name}) with one seed, {seed}"
            )
        by_seed[seed] = run
    return [Arm(name, by_seed) for name, by_seed in runs_by_arm.items()]


def _arm_names(runs: Sequence[Run]) -> list[str]:
    """The arm of each run: the name in its config, or what differs if several arms have one name."""
    recipes = [_recipe_without_seed(run) for run in runs]
    hashes = [digest(recipe) for recipe in recipes]
    first_run: dict[str, int] = {}
    for i, recipe_hash in enumerate(hashes):
        first_run.setdefault(recipe_hash, i)
    name_by_hash = {recipe_hash: runs[i].config.name for recipe_hash, i in first_run.items()}
    if len(set(name_by_hash.values())) < len(name_by_hash):
        different = [recipes[i] for i in first_run.values()]
        keys = [key for key in recipes[0] if _differs(key, different)]
        for recipe_hash, i in first_run.items():
            settings = [f"{key.split('.')[-1]} {recipes[i].get(key)}" for key in keys]
            name_by_hash[recipe_hash] = ", ".join(settings)
    return [name_by_hash[recipe_hash] for recipe_hash in hashes]


def _differs(key: str, recipes: Sequence[dict[str, Any]]) -> bool:
    return len({repr(recipe.get(key)) for recipe in recipes}) > 1


def _recipe_without_seed(run: Run) -> dict[str, Any]:
    recipe = configs.recipe_of(run.config)
    return {key: value for key, value in recipe.items() if key not in ("seed", "data.split_seed")}


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of a mean over seeds; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = float(student.ppf((1 + level) / 2, len(values) - 1)) * error
    return mean - half, mean + half


# ------------------------------------------------------------------------------------------------- the table
Table = dict[str, dict[int, dict[Key, Reading]]]
"""Readings by arm and seed."""


def compare_runs(
    arms: Sequence[Arm], metrics: Sequence[str] | None = None, generations: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """One row per generation, measure and arm.

    Args:
        metrics: names; None = all but those of the training itself.
        generations: None = the last one that all arms have.

    Keys of a row: generation, metric, extractor, arm, seeds, value (mean over seeds), ci_low, ci_high (over
    seeds, None with one seed) and floor. An arm without runs, or without the measure, has 0 seeds and value
    None. Against the first arm: difference (mean over common seeds), diff_low, diff_high, pairs, and verdict,
    which is "higher than ARM", "lower than ARM", "not distinguishable", or "cannot tell" with fewer than two
    pairs. There is no correction for multiple comparisons: of twenty differences that are zero, one is
    expected to be called distinguishable. Raises ConfigError if there is no run, a generation that some run
    lacks, or a measure that no run has.
    """
    if not arms or not any(arm.runs for arm in arms):
        raise ConfigError("there is no run to compare")
    table: Table = {}
    for arm in arms:
        table[arm.name] = {seed: values_of(run) for seed, run in arm.runs.items()}
    rows = []
    measures = _measures(table, metrics)
    for generation in _generations(table, generations):
        for metric, extractor in measures:
            key = (generation, metric, extractor)
            first = _by_seed(table, arms[0].name, key)
            for arm in arms:
                baseline = None if arm is arms[0] else (arms[0].name, first)
                rows.append(_row(key, arm.name, _by_seed(table, arm.name, key), baseline))
    return rows


def _generations(table: Table, wanted: Sequence[int] | None) -> list[int]:
    """The wanted generations, or the last that all runs have. Raises ConfigError if a run lacks one."""
    present = []
    for by_seed in table.values():
        for readings in by_seed.values():
            present.append({generation for generation, _, _ in readings})
    common = sorted(set.intersection(*present))
    chosen = common[-1:] if wanted is None else list(wanted)
    if not chosen or not set(chosen) <= set(common):
        raise ConfigError(
            f"generations {sorted(set(chosen) - set(common))} are not in all runs; common are {common}"
        )
    return chosen


def _measures(table: Table, wanted: Sequence[str] | None) -> list[tuple[str, str]]:
    """(metric, extractor) of the wanted measures, else of all that are not about the training."""
    measures: dict[tuple[str, str], None] = {}
    for by_seed in table.values():
        for readings in by_seed.values():
            for _, metric, extractor in readings:
                if wanted or extractor != "training":
                    measures[metric, extractor] = None
    if not wanted:
        return list(measures)
    names = {metric for metric, _ in measures}
    missing = [metric for metric in wanted if metric not in names]
    if missing:
        raise ConfigError(f"no run has the measure '{missing[0]}'; there are: {', '.join(sorted(names))}")
    return [(metric, extractor) for metric, extractor in measures if metric in wanted]


def _by_seed(table: Table, arm: str, key: Key) -> dict[int, Reading]:
    return {seed: readings[key] for seed, readings in table[arm].items() if key in readings}


def values_of(run: Run) -> dict[Key, Reading]:
    """Value and floor of every row of a run that has a value; of an ecosystem the means over its labs."""
    values: dict[Key, list[float]] = {}
    floors: dict[Key, list[float | None]] = {}
    for row in run.rows():
        if row["value"] is not None:
            key = (row["generation"], row["metric"], row["extractor"])
            values.setdefault(key, []).append(row["value"])
            floors.setdefault(key, []).append(row["floor"])
    return {key: (float(np.mean(values[key])), _mean(floors[key])) for key in values}


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None if any value is None."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def better_of(metric: str) -> str:
    """Which way a measure is better: 'lower', 'higher', or 'real' (best at the value of real images)."""
    known = measure_name(metric)
    if dict.__contains__(METRICS, known):
        return METRICS[known].better
    return "lower" if "loss" in metric else "real"


def worse(better: str, change: float) -> float:
    """How much worse a change makes a measure.

    >>> worse("higher", -0.1), worse("lower", -0.1), worse("real", -0.1)
    (0.1, -0.1, 0.1)
    """
    return {"higher": -change, "lower": change, "real": abs(change)}[better]


def _row(
    key: Key, arm: str, readings: dict[int, Reading], baseline: tuple[str, dict[int, Reading]] | None
) -> dict[str, Any]:
    """The row of one arm. baseline: name and readings of the first arm; None = it is the first arm."""
    generation, metric, extractor = key
    values = [value for value, _ in readings.values()]
    floors = [floor for _, floor in readings.values() if floor is not None]
    low, high = interval(values) or (None, None)
    row = {"generation": generation, "metric": metric, "extractor": extractor, "arm": arm}
    row |= {"seeds": len(values), "value": float(np.mean(values)) if values else None}
    row |= {"ci_low": low, "ci_high": high, "floor": float(np.mean(floors)) if floors else None}
    if baseline is None:
        return row | dict.fromkeys(("difference", "diff_low", "diff_high", "pairs")) | {"verdict": "baseline"}
    name, first = baseline
    differences = [readings[seed][0] - first[seed][0] for seed in readings if seed in first]
    bounds = interval(differences)
    low, high = bounds or (None, None)
    row |= {"difference": float(np.mean(differences)) if differences else None}
    row |= {"diff_low": low, "diff_high": high, "pairs": len(differences)}
    return row | {"verdict": _verdict(bounds, name)}


def _verdict(bounds: tuple[float, float] | None, baseline: str) -> str:
    if bounds is None:
        return UNKNOWN
    low, high = bounds
    if low > 0:
        return DISTINCT.format("higher", baseline)
    if high < 0:
        return DISTINCT.format("lower", baseline)
    return SAME


def unfinished(arms: Sequence[Arm]) -> list[str]:
    """A sentence for each arm without a finished run, with the consequence if it is the first arm."""
    sentences = {arm.name: f"{arm.name} has no finished run" for arm in arms if not arm.runs}
    if arms and arms[0].name in sentences:
        sentences[arms[0].name] += ": it is the arm to compare with, so no differences are computed"
    return list(sentences.values())
