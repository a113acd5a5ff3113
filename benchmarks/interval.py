"""How often the 95% intervals hold the measure's expectation, on normal data of which everything is known.

    OMP_NUM_THREADS=1 python benchmarks/interval.py

Real data are N(0, I). The samples are *equal* (the same), *apart* (0.8 times as wide, shifted by 0.5) or *narrow* (0.7 times
as wide). An interval covers when it holds the mean of the measure over all data sets of that setting.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from difflab.measure import SHARES
from difflab.metrics import METRICS, Pair, interval, resampled

SETTINGS = {"equal": (1.0, 0.0), "apart": (0.8, 0.5), "narrow": (0.7, 0.0)}
NAMES = ("fd", "kid", "precision", "recall", "density", "coverage", "trace_ratio")


def covered(n: int, d: int, setting: str, data_sets: int, resamples: int) -> dict[str, tuple[float, float]]:
    """For each measure its mean value and the share of data sets whose interval holds that mean."""
    width, shift = SETTINGS[setting]
    values: dict[str, list[float]] = {name: [] for name in NAMES}
    bounds: dict[str, list[tuple[float, float]]] = {name: [] for name in NAMES}
    for k in range(data_sets):
        draw = torch.Generator().manual_seed(1000 * n + k)
        pair = Pair(torch.randn(n, d, generator=draw), width * torch.randn(n, d, generator=draw) + shift)
        for name in NAMES:
            metric = METRICS[name]
            value = metric.of(pair)
            values[name].append(value)
            share = n if metric.unit in SHARES else None
            bounds[name].append(interval(value, resampled(metric, pair, range(resamples), seed=k), metric.range, share))
    out = {}
    for name in NAMES:
        mean, (low, high) = float(np.mean(values[name])), np.array(bounds[name]).T
        out[name] = mean, float(np.mean((low <= mean) & (mean <= high)))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-sets", type=int, default=100, help="default: 100")
    parser.add_argument("--resamples", type=int, default=60, help="default: 60")
    parser.add_argument("--dimension", type=int, default=16, help="default: 16")
    args = parser.parse_args()
    print(f"{args.data_sets} data sets, {args.resamples} resamples, d = {args.dimension}; value (coverage)\n")
    print("| setting | n | " + " | ".join(NAMES) + " |")
    print("|---|---|" + "---|" * len(NAMES))
    for setting in SETTINGS:
        for n in (100, 500):
            found = covered(n, args.dimension, setting, args.data_sets, args.resamples)
            print(f"| {setting} | {n} | " + " | ".join(f"{found[name][0]:.3f} ({found[name][1]:.2f})" for name in NAMES) + " |", flush=True)


if __name__ == "__main__":
    main()
