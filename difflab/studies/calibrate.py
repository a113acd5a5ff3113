"""The largest share of synthetic images that is safe for a config: bisection over the share, seed by seed.

A share is safe for a seed if a measure stays within a tolerance of its value in generation 0 through
generation T. The largest safe share of every seed is found by bisection, which assumes that safety falls with
the share. A chain grows generation by generation and stops at the first one outside the tolerance. All chains
of a seed share generation 0.

The estimate is the mean over seeds with Student's 95% interval, widened by half the resolution and clipped to
[0, 1]. The policy `guard` reads another number, because the lower end of that interval approaches the mean
with more seeds, and the mean is unsafe for about half of all seeds. `guard` reads the share below which the
threshold of one further seed lies with a probability of 5%: Student's one-sided prediction limit, for
thresholds that are normally distributed over seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from difflab import config as configs
from difflab.config import Config
from difflab.core.errors import ConfigError
from difflab.core.files import read_json, write_json
from difflab.loop.chain import run_chain
from difflab.loop.reuse import adopt
from difflab.runs.run import Run
from difflab.studies.compare_runs import better_of, interval, worse
from difflab.studies.executors.engine import Engine
from difflab.studies.executors.local import Local
from difflab.studies.job import Job, Record, finished

FILE = "bisection.json"
"""The result of the bisection of one seed, in ``OUT/seed-K``: the threshold and the chains that were run."""


@dataclass(frozen=True)
class Tried:
    """One chain. share: of synthetic images. left: first generation outside the tolerance, or None."""

    seed: int
    share: float
    left: int | None
    generations: int  # that were run
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Bisection(Job):
    """The search for the threshold of one seed, see `calibrate` for its attributes.

    Every chain starts after the one before has ended.
    """

    measure: str
    tolerance: float
    extractor: str | None
    resolution: float

    def run(self, out: Path, report: Any = None, until: int | None = None) -> list[list[Any]]:
        """Run or resume the chains of this seed, and write the result to `FILE`. `until` is not used."""
        tried: list[Tried] = []

        def safe(share: float) -> bool:
            found = hold(
                self.config, out, self.measure, self.tolerance, share, self.seed, self.extractor, report
            )
            tried.append(found)
            return found.left is None

        threshold = bisect(safe, self.resolution)
        write_json(self.path / FILE, {"threshold": threshold, "tried": [asdict(chain) for chain in tried]})
        return []

    def begun(self) -> list[Path]:
        """The chains that have been started."""
        return [record.parent for record in sorted(self.path.glob("share-*/run.yaml"))]


def calibrate(
    config: Config,
    out: Path,
    measure: str,
    tolerance: float,
    *,
    extractor: str | None = None,
    seeds: int = 5,
    resolution: float = 1 / 32,
    engine: Engine | None = None,
    report: Callable[[Job], Any] | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Find the largest safe share and write ``OUT/calibration.json``. The same call resumes.

    Args:
        config: its generations are T. Its regime is fixed_real or fresh_real; any other is replaced by
            fixed_real.
        measure: as in metrics.jsonl. With several extractors name one.
        tolerance: how much worse than in generation 0 the measure may become, in its own unit. A measure that
            is best at the value of real images may move by this much in both directions.
        seeds: chains per share: the seed of the config and the ones after it. An interval needs at least 2.
        resolution: width of the bracket of the share at which the bisection ends.
        engine: runs the bisections, one job per seed; None = this machine, see `executors.local.Local`.
        report, say: see `executors.engine.Engine.run`.

    Returns a dict with max_synthetic_fraction (safe for a further seed with a probability of 95%; with one
    seed the estimate), estimate, ci_low, ci_high (of the mean over seeds), by_seed, holds_until (T), longest
    (see `longest`), measure, extractor, tolerance, regime, chains, generations_run, minutes and tried. Raises
    ConfigError for a measure that the config does not take and for values out of range.
    """
    _check(config, tolerance, seeds, resolution)
    started = time.perf_counter()
    what = (measure, tolerance, extractor, resolution)
    listed = [
        Bisection(f"seed {seed}", seed, config.model_copy(update={"seed": seed}), out / f"seed-{seed}", *what)
        for seed in range(config.seed, config.seed + seeds)
    ]
    found = _bisected(listed, out, engine or Local(), report, say)
    thresholds = [each["threshold"] for each in found]
    tried = [Tried(**chain) for each in found for chain in each["tried"]]
    result = {
        **_estimate(thresholds, resolution / 2),
        "by_seed": thresholds,
        "holds_until": config.generations,
        "longest": longest(tried),
        "measure": measure,
        "extractor": extractor,
        "tolerance": tolerance,
        "regime": _with_share(config, 0.5, config.seed).regime.name,
        "chains": len(tried),
        "generations_run": sum(chain.generations for chain in tried),
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "tried": [vars(chain) for chain in tried],
    }
    write_json(out / "calibration.json", result)
    return result


def _bisected(
    listed: Sequence[Bisection],
    out: Path,
    engine: Engine,
    report: Callable[[Job], Any] | None,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The results of the bisections. Raises ConfigError with the reason of the first one that fails."""
    errors: list[str] = []

    def note(job: Job, record: Record) -> None:
        if record["error"]:
            errors.append(record["error"])

    engine.run(listed, out, note, report, say)
    if errors:
        raise ConfigError(errors[0])
    return [read_json(job.path / FILE) for job in listed]


def _check(config: Config, tolerance: float, seeds: int, resolution: float) -> None:
    """Raise ConfigError for values out of range."""
    if tolerance <= 0 or not np.isfinite(tolerance):
        raise ConfigError(
            f"--tolerance is {tolerance}: give a number above 0, because the measure changes by chance alone"
        )
    if seeds < 1 or not 0 < resolution < 1:
        raise ConfigError(
            f"give at least one seed and a resolution between 0 and 1, got {seeds} and {resolution}"
        )
    if config.generations < 1:
        raise ConfigError("generations is 0: there is no later generation to compare with generation 0")


def _estimate(thresholds: Sequence[float], half: float) -> dict[str, float | None]:
    """The safe share, and the mean over seeds with its interval. half: half the resolution of a threshold."""
    estimate = float(np.mean(thresholds))
    bounds = interval(thresholds)
    if bounds is None:
        return {
            "max_synthetic_fraction": round(estimate, 4),
            "estimate": estimate,
            "ci_low": None,
            "ci_high": None,
        }
    return {
        "max_synthetic_fraction": round(max(0.0, one_more(thresholds) - half), 4),
        "estimate": estimate,
        "ci_low": max(0.0, bounds[0] - half),
        "ci_high": min(1.0, bounds[1] + half),
    }


def one_more(values: Sequence[float], level: float = 0.95) -> float:
    """The bound that one further value exceeds with probability `level`: Student's one-sided prediction
    limit.

    `values` are two or more, and normally distributed.

    >>> round(one_more([0.2, 0.3, 0.4]), 4)
    -0.0372
    """
    n = len(values)
    return float(np.mean(values) - student.ppf(level, n - 1) * np.std(values, ddof=1) * (1 + 1 / n) ** 0.5)


def longest(tried: Sequence[Tried]) -> dict[str, int]:
    """For each share that was tried, from the smallest: the last generation up to which all its chains were
    safe.

    >>> longest([Tried(0, 0.5, 3, 3), Tried(1, 0.5, 2, 2), Tried(0, 0.25, None, 4)])
    {'0.25': 4, '0.5': 1}
    """
    last_safe: dict[float, int] = {}
    for chain in sorted(tried, key=lambda chain: chain.share):
        until = chain.generations if chain.left is None else chain.left - 1
        last_safe[chain.share] = min(until, last_safe.get(chain.share, until))
    return {f"{share:.4g}": until for share, until in last_safe.items()}


def bisect(safe: Callable[[float], bool], resolution: float) -> float:
    """The middle of the last bracket around the largest safe share in [0, 1].

    1 if every share is safe, 0 if no share above `resolution` is.

    >>> bisect(lambda share: share < 0.3, 1 / 32)
    0.296875
    """
    if safe(1.0):
        return 1.0
    low, high = 0.0, 1.0
    while high - low > resolution:
        middle = (low + high) / 2
        if safe(middle):
            low = middle
        else:
            high = middle
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
    report: Any = None,
) -> Tried:
    """Run the chain of a share and a seed until the measure leaves the tolerance or the chain ends."""
    chain, path = _with_share(config, share, seed), out / f"seed-{seed}" / f"share-{share:.4f}"
    values: list[float] = []
    # Exact families draw fresh real data together with the real set, so their chain cannot be extended; it
    # costs no time.
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
            run = run_chain(part, path, report, plots=False)
        values = _values(run, measure, extractor)[: t + 1]
        if worse(better_of(measure), values[-1] - values[0]) > tolerance:
            return Tried(chain.seed, share, t, t, values)
    return Tried(chain.seed, share, None, chain.generations, values)


def _values(run: Run, measure: str, extractor: str | None) -> list[float]:
    """The values of a measure by generation.

    Raises ConfigError if it was not taken, or on several extractors, or has no value.
    """
    all_rows = run.rows()
    rows = [row for row in all_rows if row["metric"] == measure and extractor in (None, row["extractor"])]
    if not rows:
        names = dict.fromkeys(row["metric"] for row in all_rows)
        raise ConfigError(f"the run takes no measure '{measure}'; it takes: {', '.join(names)}")
    extractors = {row["extractor"] for row in rows}
    if len(extractors) > 1:
        raise ConfigError(
            f"'{measure}' is taken on several extractors; name one with --extractor: {', '.join(extractors)}"
        )
    for row in rows:
        if row["value"] is None:
            raise ConfigError(f"'{measure}' has no value in generation {row['generation']}: {row['reason']}")
    return [row["value"] for row in rows]
