"""The largest share of synthetic images that is safe for a config: bisection over the share, seed by seed, with chains that stop early.

A share is safe for a seed when a measure stays within a tolerance of its value in generation 0 through generation T. For every seed
the largest safe share is found by bisection, which takes safety to fall with the share; chains are extended generation by generation
and end at the first that leaves the tolerance; all chains of a seed share generation 0. The estimate is the mean over seeds with
Student's 95% interval, widened by half the bracket and clipped to [0, 1]. What goes into the file that the policy `guard` reads is no end of that
interval, which closes on the mean with more seeds and then holds for half of them: it is the share below which the threshold of one further
seed falls with a probability of 5% (Student's one-sided prediction limit, for thresholds that are normal over seeds).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from difflab import config as configs
from difflab.config import Config
from difflab.core.errors import ConfigError
from difflab.core.files import write_json
from difflab.loop.reuse import adopt
from difflab.runs.run import Run
from difflab.studies.compare_runs import better_of, interval, worse
from difflab.studies.sweep import finished


@dataclass(frozen=True)
class Tried:
    """One chain: the share of synthetic images, and the first generation outside the tolerance (None = it held to the end)."""

    seed: int
    share: float
    left: int | None
    generations: int  # that were run
    values: list[float] = field(default_factory=list)


def calibrate(
    config: Config,
    out: Path,
    measure: str,
    tolerance: float,
    *,
    extractor: str | None = None,
    seeds: int = 5,
    resolution: float = 1 / 32,
    report: Callable[[Config], Any] | None = None,
) -> dict[str, Any]:
    """Find the largest safe share and write ``OUT/calibration.json``; rerunning resumes.

    Args:
        config: its regime is fixed_real or fresh_real, any other is taken as fixed_real; its generations are T.
        measure: as in metrics.jsonl; with several extractors say which.
        tolerance: how far the measure may get worse than in generation 0, in its own unit; a measure that is best as of real images may
            move so far either way.
        seeds: chains per share, at least 2 for an interval; the config's own seed and the ones after it.
        resolution: width of the share's bracket at which a bisection ends.

    Returns max_synthetic_fraction (that a further seed bears with 95% probability; with one seed, of which that cannot be told, the estimate),
    estimate, ci_low, ci_high (of the mean over seeds), by_seed, holds_until (T), longest (see `longest`), measure, extractor, tolerance, chains, generations_run, minutes, tried. Raises ConfigError for
    a measure that the config does not take.
    """
    if tolerance <= 0 or not np.isfinite(tolerance):
        raise ConfigError(
            f"--tolerance is {tolerance}: the measure moves by chance alone, so it wants a number above 0"
        )
    if seeds < 1 or not 0 < resolution < 1:
        raise ConfigError(f"at least one seed and a resolution between 0 and 1, got {seeds} and {resolution}")
    if config.generations < 1:
        raise ConfigError("generations is 0: there is nothing to hold through")
    started = time.perf_counter()
    tried: list[Tried] = []
    thresholds = []
    for seed in range(config.seed, config.seed + seeds):

        def safe(share: float, seed: int = seed) -> bool:
            tried.append(hold(config, out, measure, tolerance, share, seed, extractor, report))
            return tried[-1].left is None

        thresholds.append(bisect(safe, resolution))
    found = interval(thresholds)
    estimate = float(np.mean(thresholds))
    half = resolution / 2
    low, high = (max(0.0, found[0] - half), min(1.0, found[1] + half)) if found else (None, None)
    result = {
        "max_synthetic_fraction": round(
            estimate if low is None else max(0.0, one_more(thresholds) - half), 4
        ),
        "estimate": estimate,
        "ci_low": low,
        "ci_high": high,
        "by_seed": thresholds,
        "holds_until": config.generations,
        "longest": longest(tried),
        "measure": measure,
        "extractor": extractor,
        "tolerance": tolerance,
        "regime": _with_share(config, 0.5, config.seed).regime.name,
        "chains": len(tried),
        "generations_run": sum(t.generations for t in tried),
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "tried": [vars(t) for t in tried],
    }
    write_json(out / "calibration.json", result)
    return result


def one_more(values: Sequence[float], level: float = 0.95) -> float:
    """What one further value is above with probability `level`: Student's one-sided prediction limit of two or more normal values.

    >>> round(one_more([0.2, 0.3, 0.4]), 4)
    -0.0372
    """
    n = len(values)
    return float(np.mean(values) - student.ppf(level, n - 1) * np.std(values, ddof=1) * (1 + 1 / n) ** 0.5)


def longest(tried: Sequence[Tried]) -> dict[str, int]:
    """Of each share that was tried, from the smallest: the last generation through which all its chains held.

    >>> longest([Tried(0, 0.5, 3, 3), Tried(1, 0.5, 2, 2), Tried(0, 0.25, None, 4)])
    {'0.25': 4, '0.5': 1}
    """
    held: dict[float, int] = {}
    for one in sorted(tried, key=lambda one: one.share):
        until = one.generations if one.left is None else one.left - 1
        held[one.share] = min(until, held.get(one.share, until))
    return {f"{share:.4g}": until for share, until in held.items()}


def bisect(safe: Callable[[float], bool], resolution: float) -> float:
    """Middle of the last bracket around the largest safe share in [0, 1]; 1 where everything is safe, 0 where nothing above `resolution` is.

    >>> bisect(lambda share: share < 0.3, 1 / 32)
    0.296875
    """
    if safe(1.0):
        return 1.0
    low, high = 0.0, 1.0
    while high - low > resolution:
        middle = (low + high) / 2
        low, high = (middle, high) if safe(middle) else (low, middle)
    return 0.0 if low == 0 else (low + high) / 2


def _with_share(config: Config, share: float, seed: int) -> Config:
    raw = config.model_dump(mode="json")
    regime = raw["regime"]
    if regime["name"] not in ("fixed_real", "fresh_real"):
        regime |= {"name": "fixed_real", "stratified": False}
    regime["real_fraction"] = 1.0 - share
    return configs.parse({**raw, "seed": seed})


def hold(
    config: Config,
    out: Path,
    measure: str,
    tolerance: float,
    share: float,
    seed: int,
    extractor: str | None = None,
    report: Callable[[Config], Any] | None = None,
) -> Tried:
    """Extend the chain of a share and a seed, under ``OUT/seed-K``, generation by generation until the measure leaves the tolerance, or to its end."""
    from difflab.loop.chain import run_chain

    chain, path = _with_share(config, share, seed), out / f"seed-{seed}" / f"share-{share:.4f}"
    shown = report(chain) if report else None
    values: list[float] = []
    # Of the exact families fresh real data are drawn with the real set: such a run is made whole, and costs nothing.
    whole = chain.exact and chain.regime.name == "fresh_real"
    for t in range(chain.generations + 1):
        if not whole or t == 0:
            part = chain if whole else chain.model_copy(update={"generations": t})
            run = Run.create(path, part)
            try:
                if t == 0:
                    adopt(run, finished(out))
            finally:
                run.close()
            run = run_chain(part, path, shown, plots=False)
        values = _values(run, measure, extractor)[: t + 1]
        if worse(better_of(measure), values[-1] - values[0]) > tolerance:
            return Tried(chain.seed, share, t, t, values)
    return Tried(chain.seed, share, None, chain.generations, values)


def _values(run: Run, measure: str, extractor: str | None) -> list[float]:
    rows = [r for r in run.rows() if r["metric"] == measure and extractor in (None, r["extractor"])]
    if not rows:
        raise ConfigError(
            f"the run takes no measure '{measure}'; it takes: {', '.join(dict.fromkeys(r['metric'] for r in run.rows()))}"
        )
    if len({r["extractor"] for r in rows}) > 1:
        raise ConfigError(
            f"'{measure}' is taken on several extractors; say which with --extractor: {', '.join({r['extractor'] for r in rows})}"
        )
    missing = next((r for r in rows if r["value"] is None), None)
    if missing:
        raise ConfigError(
            f"'{measure}' has no value in generation {missing['generation']}: {missing['reason']}"
        )
    return [r["value"] for r in rows]
