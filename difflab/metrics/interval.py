"""95% intervals: how much a measure depends on the images that were drawn. Half-samples for measures that are
not smooth.

Each resample takes half of the rows of either side, without replacement and independently, and evaluates
the measure on them. For a mean over n rows the variance of the half-sample mean around the full mean is
(1 - 1/2)/(n/2) s^2 = s^2/n. This is the variance of the full mean, so no rescaling is needed (McCarthy
1969, balanced half-samples; Shao & Tu 1995, ch. 5). A bootstrap would draw duplicates, which are each
other's nearest neighbours and break k-NN measures and U-statistics.

Half the rows also shift the *mean* of a biased measure (the Frechet distance grows as 1/n, k-NN balls
widen), so only the spread is taken from the resamples: ``value + quantiles(theta_b - mean theta_b)``. The
interval is about the expectation of the measure **at this n**, which is also that of the floor. It does
not remove the bias.

For shares of images the interval is joined with Wilson's: near 0 and 1 most half-samples are equal to the
bound, and their spread alone would shrink to a point.

Most measures do not need half-samples: their error comes from the influence of each image, see
`difflab.metrics.influence`. `precision`, `recall` and `coverage` do, since one image decides whether others
are inside.

How often the intervals cover the expectation, and how wide they are, is measured by
``benchmarks/interval.py`` (tables: benchmarks/README.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.metric import PairMetric
from difflab.metrics.pair import Pair

LEVEL = 0.95
"""Nominal coverage of every interval."""
Z95 = 1.959964
"""Half the width of a 95% interval of a normal distribution, in standard deviations."""


def half_rows(n_real: int, n_fake: int, resample: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sorted row indices int64 [n_real // 2] and [n_fake // 2] of one resample: a function of the arguments
    alone.

    >>> [len(rows) for rows in half_rows(10, 7, resample=0, seed=1)]
    [5, 3]
    """
    draw = np.random.default_rng(np.random.SeedSequence([seed, resample]))
    real, fake = (np.sort(draw.permutation(n)[: n // 2]) for n in (n_real, n_fake))
    return torch.from_numpy(real), torch.from_numpy(fake)


def resampled(metric: type[PairMetric], pair: Pair, resamples: Iterable[int], seed: int) -> list[float]:
    """The measure on the half-samples numbered `resamples`, in that order.

    Each value depends on its own number alone, so that processes may share the numbers. Raises
    MeasureError, as `metric.of`, when half of the rows are too few.

    >>> from difflab.metrics import METRICS
    >>> len(resampled(METRICS["trace_ratio"], Pair(torch.rand(8, 2), torch.rand(8, 2)), range(3), seed=0))
    3
    """
    return [metric.of(pair, *half_rows(len(pair.real), len(pair.fake), number, seed)) for number in resamples]


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95% interval of a share of n independent images. It has positive width also at 0 and 1.

    >>> [round(x, 4) for x in wilson(1.0, 500)]
    [0.9924, 1.0]
    """
    z2 = Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(share * (1 - share) * z2 / n + z2 * z2 / (4 * n * n)) / (1 + z2 / n)
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))  # rounded at 0 and 1


def interval(
    value: float,
    resampled_values: Sequence[float],
    range: tuple[float, float] = (-math.inf, math.inf),
    share_of: int | None = None,
) -> tuple[float, float]:
    """95% interval (low, high) of a full-sample `value`, clipped to the `range` of the measure.

    With `share_of`, the value is a share of that many images, and the interval is joined with Wilson's.
    Raises MeasureError for fewer than 20 resamples (a 2.5% tail is then a guess) and for values that are
    not finite.

    >>> low, high = interval(0.9, [0.8 + 0.01 * i for i in range(21)], (0.0, 1.0))
    >>> round(low, 3), round(high, 3)
    (0.805, 0.995)
    """
    if len(resampled_values) < 20:
        raise MeasureError(
            f"an interval needs at least 20 resamples, got {len(resampled_values)}: raise "
            "measure.resamples, or set 0 for none"
        )
    theta = np.asarray(resampled_values, dtype=np.float64)
    if not (np.isfinite(theta).all() and math.isfinite(value)):
        raise MeasureError("an interval needs finite values; some resamples are not")
    low, high = value + np.quantile(theta - theta.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if share_of:
        low, high = min(low, wilson(value, share_of)[0]), max(high, wilson(value, share_of)[1])
    return float(np.clip(low, *range)), float(np.clip(high, *range))


def normal_interval(
    value: float,
    error: float,
    range: tuple[float, float] = (-math.inf, math.inf),
    share_of: int | None = None,
) -> tuple[float, float]:
    """95% interval (low, high) of a `value` with a standard error, clipped to the `range` of the measure.

    With `share_of`, the value is a share of that many images. The interval is then Wilson's for the number of
    independent images that would give this error, at most `share_of` (Korn & Graubard 1998). Near 0 and 1 it
    is longer towards the middle.

    >>> [round(bound, 3) for bound in normal_interval(0.5, 0.1, (0.0, 0.6))]
    [0.304, 0.6]
    >>> [round(bound, 3) for bound in normal_interval(0.1, 0.03, (0.0, 1.0), share_of=500)]
    [0.055, 0.174]
    """
    low, high = value - Z95 * error, value + Z95 * error
    if share_of:
        spread = value * (1 - value)
        low, high = wilson(value, min(share_of, spread / error**2) if spread > 0 < error else share_of)
    return float(np.clip(low, *range)), float(np.clip(high, *range))
