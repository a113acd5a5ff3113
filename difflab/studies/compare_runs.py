"""Runs lined up by generation: arms against the first one, seed by seed, with intervals over seeds.

The chain is the unit of replication: samples of one chain share their ancestry, so the interval of a single run says nothing about
what another seed would give. Differences are paired by seed (arms of a sweep share generation 0, so that their luck cancels) and
have Student's 95% interval. With one seed there is none, and the verdict is "cannot tell".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from difflab import config as configs
from difflab.core.errors import ConfigError
from difflab.runs.run import Run

DISTINCT, SAME, UNKNOWN = "{} than {}", "not distinguishable", "cannot tell"


@dataclass(frozen=True)
class Arm:
    """The runs of one recipe, by seed."""

    name: str
    runs: dict[int, Run]


def arms_of(runs: Sequence[Run], names: Sequence[str] | None = None) -> list[Arm]:
    """Runs grouped by everything but their seed, in order of appearance. Raises ConfigError for two runs of one arm and seed.

    Args:
        names: the arm of each run; None = runs of one recipe are one arm, named as the config is, or by what differs.
    """
    if names is None:
        recipes = [
            {k: v for k, v in configs.recipe_of(run.config).items() if k not in ("seed", "data.split_seed")}
            for run in runs
        ]
        keys = [configs.digest(recipe) for recipe in recipes]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        named = {key: runs[i].config.name for key, i in first.items()}
        if len(set(named.values())) < len(named):  # one name for several arms: say what is different
            differing = [k for k in recipes[0] if len({repr(recipes[i].get(k)) for i in first.values()}) > 1]
            named = {
                key: ", ".join(f"{k.split('.')[-1]} {recipes[i].get(k)}" for k in differing)
                for key, i in first.items()
            }
        names = [named[key] for key in keys]
    grouped: dict[str, dict[int, Run]] = {}
    for name, run in zip(names, runs, strict=True):
        own = grouped.setdefault(name, {})
        if run.config.seed in own:
            raise ConfigError(
                f"{run.path} and {own[run.config.seed].path} are one arm ({name}) with one seed, {run.config.seed}"
            )
        own[run.config.seed] = run
    return [Arm(name, own) for name, own in grouped.items()]


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of a mean over seeds; None for fewer than two."""
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = float(student.ppf((1 + level) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def compare_runs(
    arms: Sequence[Arm], metrics: Sequence[str] | None = None, generations: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """One row per generation, measure and arm.

    Args:
        metrics: names; None = all but those of the training itself.
        generations: None = the last one that all arms have.

    Rows: generation, metric, extractor, arm, seeds, value (mean over seeds), ci_low, ci_high (over seeds, None with one seed), floor; an arm
    without runs, or without the measure, has 0 seeds and None. Against the first arm, whether it has runs or not: difference (mean over
    common seeds), diff_low, diff_high, pairs and verdict: "higher than ARM", "lower than ARM", "not distinguishable" or, with fewer than
    two pairs, "cannot tell". No correction for many comparisons is made: of twenty true nulls one will part.
    Raises ConfigError for fewer than one arm or a measure that no arm has.
    """
    if not arms or not any(arm.runs for arm in arms):
        raise ConfigError("there is no run to compare")
    table = {arm.name: {seed: values_of(run) for seed, run in arm.runs.items()} for arm in arms}
    have = [
        set.intersection(*({t for t, *_ in own} for own in by_seed.values()))
        for by_seed in table.values()
        if by_seed
    ]
    common = sorted(set.intersection(*have)) if have else []
    chosen = list(generations) if generations is not None else common[-1:]
    if not chosen or not set(chosen) <= set(common):
        raise ConfigError(
            f"generations {sorted(set(chosen) - set(common))} are not in all runs; common are {common}"
        )
    names = list(
        dict.fromkeys(
            (m, e)
            for by_seed in table.values()
            for own in by_seed.values()
            for _, m, e in own
            if metrics or e != "training"
        )
    )
    if metrics:
        missing = [m for m in metrics if m not in {name for name, _ in names}]
        if missing:
            raise ConfigError(
                f"no run has the measure '{missing[0]}'; there are: {', '.join(sorted({name for name, _ in names}))}"
            )
        names = [(m, e) for m, e in names if m in metrics]
    rows = []
    for t in chosen:
        for metric, extractor in names:
            base = {
                seed: own[t, metric, extractor]
                for seed, own in table[arms[0].name].items()
                if (t, metric, extractor) in own
            }
            for arm in arms:
                own = {
                    seed: found[t, metric, extractor]
                    for seed, found in table[arm.name].items()
                    if (t, metric, extractor) in found
                }
                rows.append(
                    _row(
                        t, metric, extractor, arm.name, own, None if arm is arms[0] else (arms[0].name, base)
                    )
                )
    return rows


def values_of(run: Run) -> dict[tuple[int, str, str], tuple[float, float | None]]:
    """(generation, metric, extractor) -> value and floor; of an ecosystem the means over its labs."""
    found: dict[tuple[int, str, str], list[tuple[float, float | None]]] = {}
    for r in run.rows():
        if r["value"] is not None:
            found.setdefault((r["generation"], r["metric"], r["extractor"]), []).append(
                (r["value"], r["floor"])
            )

    def mean(values: list[Any]) -> float | None:
        return None if None in values else float(np.mean(values))

    return {
        key: (float(np.mean([v for v, _ in own])), mean([f for _, f in own])) for key, own in found.items()
    }


def better_of(metric: str) -> str:
    """Which way a row of metrics.jsonl is better: 'lower', 'higher', or 'real', best as of real images."""
    from difflab.metrics import METRICS

    known = "fd" if metric == "fid" else metric
    return (
        METRICS[known].better
        if dict.__contains__(METRICS, known)
        else "lower"
        if "loss" in metric
        else "real"
    )


def worse(better: str, change: float) -> float:
    """How much worse a change makes a measure.

    >>> worse("higher", -0.1), worse("lower", -0.1), worse("real", -0.1)
    (0.1, -0.1, 0.1)
    """
    return {"higher": -change, "lower": change, "real": abs(change)}[better]


def _row(
    t: int,
    metric: str,
    extractor: str,
    name: str,
    own: dict[int, Any],
    base: tuple[str, dict[int, Any]] | None,
) -> dict[str, Any]:
    values = [value for value, _ in own.values()]
    floors = [floor for _, floor in own.values() if floor is not None]
    low, high = interval(values) or (None, None)
    row = {"generation": t, "metric": metric, "extractor": extractor, "arm": name, "seeds": len(values)}
    row |= {"value": float(np.mean(values)) if values else None}
    row |= {"ci_low": low, "ci_high": high, "floor": float(np.mean(floors)) if floors else None}
    if base is None:
        return row | {
            "difference": None,
            "diff_low": None,
            "diff_high": None,
            "pairs": None,
            "verdict": "baseline",
        }
    pairs = [own[seed][0] - base[1][seed][0] for seed in own if seed in base[1]]
    found = interval(pairs)
    verdict = UNKNOWN
    if found:
        verdict = (
            DISTINCT.format("higher" if found[0] > 0 else "lower", base[0])
            if found[0] > 0 or found[1] < 0
            else SAME
        )
    low, high = found or (None, None)
    return row | {
        "difference": float(np.mean(pairs)) if pairs else None,
        "diff_low": low,
        "diff_high": high,
        "pairs": len(pairs),
        "verdict": verdict,
    }


def unfinished(arms: Sequence[Arm]) -> list[str]:
    """A sentence for each arm without runs; of the first one also what follows."""
    said = {arm.name: f"{arm.name} has no finished run" for arm in arms if not arm.runs}
    if arms and arms[0].name in said:
        said[arms[0].name] += ": it is the arm to compare with, so no differences are computed"
    return list(said.values())


def budgets(arms: Sequence[Arm]) -> str:
    """One sentence: whether arms saw as many images, in sets of one size, and drew as many samples, seed by seed in every generation; else the worst."""
    found = [(arm.name, {seed: _spent(run) for seed, run in arm.runs.items()}) for arm in arms if arm.runs]
    if len(found) < 2:
        return "budgets: there are no two arms with runs to match"
    base, first = found[0]
    differing = []
    for what in ("images seen", "training set", "samples drawn"):
        gaps = []
        for name, own in found[1:]:
            pairs = [(first[seed], own[seed]) for seed in own if seed in first] or [
                (a, b) for a in first.values() for b in own.values()
            ]
            for t in sorted({t for a, b in pairs for t in a[what] if t in b[what]}):
                values = [(a[what][t], b[what][t]) for a, b in pairs if t in a[what] and t in b[what]]
                gaps.append((max(_gap(*pair) for pair in values), name, t, values))
        gaps = [gap for gap in gaps if gap[0]]
        if gaps:
            _, name, t, values = max(gaps, key=lambda gap: gap[0])
            more = [other for other in dict.fromkeys(gap[1] for gap in gaps) if other != name]
            too = f"; {', '.join(more) if len(more) < 4 else f'{len(more)} other arms'} too" if more else ""
            a, b = (_span([pair[i] for pair in values]) for i in (0, 1))
            if a == b:  # the same numbers, of other seeds
                a, b = (_span([value]) for value in max(values, key=lambda pair: _gap(*pair)))
            differing.append(f"{what} {a} in {base}, {b} in {name} (generation {t}{too})")
    return (
        "budgets match: images seen, set size and samples drawn are the same in all arms"
        if not differing
        else "budgets do NOT match: " + "; ".join(differing)
    )


def _spent(run: Run) -> dict[str, dict[int, int | None]]:
    """Images seen, size of the training set and samples drawn, by generation; summed over labs, None where a formula is fitted."""
    records = {t: [part.training(t) for part in run.parts] for t in run.generations}

    def total(key: str) -> dict[int, int | None]:
        return {
            t: sum(r[key] for r in own) if all(key in r for r in own) else None for t, own in records.items()
        }

    drawn: dict[int, int | None] = {
        t: sum(part.config.sample.count_of(t) for part in run.parts) for t in records
    }
    return {"images seen": total("images_seen"), "training set": total("set_size"), "samples drawn": drawn}


def _gap(a: int | None, b: int | None) -> float:
    """How far apart two numbers are, 0 = equal, to 1.

    >>> _gap(500, 500), _gap(500, 250), _gap(None, 500)
    (0.0, 0.5, 1.0)
    """
    return 0.0 if a == b else 1 - min(a, b) / max(a, b) if a and b else 1.0


def _span(values: Sequence[int | None]) -> str:
    """'310 to 336', or the one that all are; "none" where there is no number."""
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    return f"{min(known):,}" + (f" to {max(known):,}" if max(known) > min(known) else "")
