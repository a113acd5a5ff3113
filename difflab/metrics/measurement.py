"""One measure on one pair: its value, and half-samples that give its interval and standard error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from difflab.metrics.interval import interval, wilson
from difflab.metrics.metric import PairMetric
from difflab.metrics.pair import Pair

SHARES = ("share of samples", "share of real images")
"""Units of measures that count images one by one.

All half-samples of a share of 0 or 1 agree, so Wilson's interval is joined.
"""
Resample = Callable[[type[PairMetric], Pair], Sequence[float]]
"""(metric, pair) -> the measure on half-samples, see `difflab.metrics.interval.resampled`; [] = none."""


@dataclass(frozen=True)
class Measurement:
    """A measure on `n` samples.

    Attributes:
        value: on all rows.
        half_samples: on half of the rows each.
        note: which images were left out, None = all count.
    """

    metric: type[PairMetric]
    value: float
    half_samples: Sequence[float]
    n: int
    note: str | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval; None without half-samples. Raises MeasureError for fewer than 20 of them."""
        if not self.half_samples:
            return None
        share_of = self.n if self.metric.unit in SHARES else None
        return interval(self.value, sorted(self.half_samples), self.metric.range, share_of)

    @property
    def error(self) -> float:
        """Standard error; for a share not below that of Wilson's interval."""
        error = float(np.std(self.half_samples, ddof=1))
        if self.metric.unit in SHARES:
            low, high = wilson(self.value, self.n)
            error = max(error, (high - low) / 3.92)
        return error


def take(metric: type[PairMetric], pair: Pair, resample: Resample) -> Measurement:
    """Take a measure on a pair. Raises MeasureError if it has no value, on all rows or on half of them.

    >>> import torch
    >>> from difflab.metrics import METRICS, resampled
    >>> real = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    >>> pair = Pair(real, real + 100)
    >>> recall = take(METRICS["recall"], pair, lambda metric, pair: resampled(metric, pair, range(20), 0))
    >>> recall.value, recall.n, len(recall.half_samples), recall.error > 0
    (0.0, 40, 20, True)
    """
    value = metric.of(pair)
    return Measurement(metric, value, resample(metric, pair), len(pair.fake), metric.note(pair))
