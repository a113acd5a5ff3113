"""One measure on one pair: its value, and what gives its interval and standard error.

That is the influence of each image where the measure is smooth, else half-samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from difflab.metrics.influence import Influence, variance_of
from difflab.metrics.interval import Z95, interval, normal_interval, wilson
from difflab.metrics.metric import PairMetric
from difflab.metrics.pair import Pair

Resample = Callable[[type[PairMetric], Pair], Sequence[float]]
"""(metric, pair) -> the measure on half-samples, see `difflab.metrics.interval.resampled`."""


@dataclass(frozen=True)
class Measurement:
    """A measure on `n` samples.

    Attributes:
        value: on all rows.
        influence: of each image; None = not known, or no error was asked for.
        half_samples: the measure on half of the rows each; empty where `influence` is known.
        note: which images were left out, None = all count.
        counted: how many images the value is a share of; None = it is not a share. All half-samples of a
            share of 0 or 1 agree, so Wilson's interval is joined.
    """

    metric: type[PairMetric]
    value: float
    n: int
    influence: Influence | None = None
    half_samples: Sequence[float] = ()
    note: str | None = None
    counted: int | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval; None without influences and half-samples. Raises MeasureError for fewer than 20
        half-samples.
        """
        if self.influence is not None:
            if self.influence.bounds is not None:
                return self.influence.bounds
            return normal_interval(self.value, self.influence.error, self.metric.range, self.counted)
        if not self.half_samples:
            return None
        return interval(self.value, sorted(self.half_samples), self.metric.range, self.counted)

    @property
    def error(self) -> float:
        """Standard error; for a share not below that of Wilson's interval."""
        if self.influence is not None:
            error = self.influence.error
        else:
            error = float(np.std(self.half_samples, ddof=1))
        if self.counted:
            low, high = wilson(self.value, self.counted)
            error = max(error, (high - low) / 3.92)
        return error


def error_of_difference(a: Measurement, b: Measurement) -> float:
    """Standard error of a.value - b.value, two values of one measure on the same real images and different
    samples.

    The influence of the real images on both cancels in part. Half-samples number i of both hold the same real
    images, if they were drawn with the same seed. For shares the error is at least that of Wilson's
    intervals at 0 and 1.
    """
    if a.influence is not None and b.influence is not None and len(a.influence.real) == len(b.influence.real):
        parts = [a.influence.real - b.influence.real, a.influence.fake, b.influence.fake]
        error = variance_of(parts, a.influence.quadratic + b.influence.quadratic) ** 0.5
    elif a.half_samples and len(a.half_samples) == len(b.half_samples):
        error = float(np.std(np.subtract(a.half_samples, b.half_samples), ddof=1))
    else:
        error = math.hypot(a.error, b.error)
    if a.counted and b.counted:
        error = max(error, math.hypot(Z95 / (2 * a.counted), Z95 / (2 * b.counted)))
    return error


def take(metric: type[PairMetric], pair: Pair, resample: Resample | None) -> Measurement:
    """Take a measure on a pair. Raises MeasureError if it has no value, on all rows or on half of them.

    Args:
        resample: gives half-samples of the measures without influences; None = take no error at all.

    >>> import torch
    >>> from difflab.metrics import METRICS, resampled
    >>> real = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    >>> pair = Pair(real, real + 100)
    >>> recall = take(METRICS["recall"], pair, lambda metric, pair: resampled(metric, pair, range(20), 0))
    >>> recall.value, recall.n, len(recall.half_samples), recall.error > 0
    (0.0, 40, 20, True)
    >>> take(METRICS["trace_ratio"], pair, None).interval is None
    True
    """
    value, n, note = metric.of(pair), len(pair.fake), metric.note(pair)
    counted = metric.counted(pair)
    if resample is None:
        return Measurement(metric, value, n, note=note, counted=counted)
    influence = metric.influence_of(pair)
    half_samples = resample(metric, pair) if influence is None else ()
    return Measurement(metric, value, n, influence, half_samples, note, counted)
