"""95% intervals by half-sampling: what a measure owes to the images that happened to be drawn.

Each resample takes half of the rows of either side, without replacement and independently, and evaluates the measure on
them. For a mean over n rows the variance of the half-sample mean around the full mean is (1 - 1/2)/(n/2) s^2 = s^2/n: the
variance of the full mean itself, so no rescaling is needed (McCarthy 1969, balanced half-samples; Shao & Tu 1995, ch. 5).
A bootstrap would draw duplicates, which are each other's nearest neighbours and break k-NN measures and U-statistics.

Half the rows also shift the *mean* of a biased measure (the Frechet distance grows as 1/n, k-NN balls widen), so only the
spread is taken from the resamples: ``value + quantiles(theta_b - mean theta_b)``. The interval is about the expectation of
the measure **at this n**, which is what the floor at the same n is compared with; it does not remove the bias.

"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from difflab.errors import MeasureError
from difflab.metrics.base import Pair, PairMetric

LEVEL = 0.95
"""Nominal coverage of every interval."""


def half_rows(n_real: int, n_fake: int, resample: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sorted row indices int64 [n_real // 2] and [n_fake // 2] of one resample: a pure function of its arguments.

    >>> [len(rows) for rows in half_rows(10, 7, resample=0, seed=1)]
    [5, 3]
    """
    draw = np.random.default_rng(np.random.SeedSequence([seed, resample]))
    real, fake = (np.sort(draw.permutation(n)[: n // 2]) for n in (n_real, n_fake))
    return torch.from_numpy(real), torch.from_numpy(fake)


def resampled(metric: type[PairMetric], pair: Pair, resamples: Iterable[int], seed: int) -> list[float]:
    """The measure on the half-samples numbered `resamples`, in that order.

    Processes may share the numbers: each value depends on its own number alone. Raises MeasureError, as `metric.of`,
    when half of the rows are too few.

    >>> from difflab.metrics import METRICS
    >>> len(resampled(METRICS["trace_ratio"], Pair(torch.rand(8, 2), torch.rand(8, 2)), range(3), seed=0))
    3
    """
    return [metric.of(pair, *half_rows(len(pair.real), len(pair.fake), number, seed)) for number in resamples]


def interval(value: float, resampled_values: Sequence[float], range: tuple[float, float] = (-math.inf, math.inf)) -> tuple[float, float]:
    """95% interval (low, high) of a full-sample `value`, clipped to the measure's `range`.

    Raises MeasureError with fewer than 20 resamples (a 2.5% tail is then a guess) or non-finite values.

    >>> low, high = interval(0.9, [0.8 + 0.01 * i for i in range(21)], (0.0, 1.0))
    >>> round(low, 3), round(high, 3)
    (0.805, 0.995)
    """
    if len(resampled_values) < 20:
        raise MeasureError(f"an interval needs at least 20 resamples, got {len(resampled_values)}: raise measure.resamples, or set 0 for none")
    theta = np.asarray(resampled_values, dtype=np.float64)
    if not (np.isfinite(theta).all() and math.isfinite(value)):
        raise MeasureError("an interval needs finite values; some resamples are not")
    low, high = value + np.quantile(theta - theta.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.clip(low, *range)), float(np.clip(high, *range))
