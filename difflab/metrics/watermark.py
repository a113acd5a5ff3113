"""Watermark measures: whether samples carry the spread-spectrum mark of a key.

They read the features of an extractor `watermark:KEY` and no others. Samples need not be marked: those of a
model that was trained on marked images may carry the mark on (radioactivity: Sablayrolles et al. 2002.00937,
Sander et al. 2402.14904). The floor is the same measure between two sets of real images.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.features.spread_spectrum import CHIPS, bit_shares, detected, z_of
from difflab.metrics.influence import Influence
from difflab.metrics.interval import Z95, half_rows
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows

HALVES = 40
"""Half-samples of the interval of `watermark_z`."""


def _checked(features: Tensor, name: str) -> Tensor:
    if features.shape[1] != CHIPS:
        raise MeasureError(
            f"{name} reads the {CHIPS} chips of an extractor watermark:KEY, got {features.shape[1]} features"
        )
    return features


class _OfImages(PairMetric):
    """The mean of one value of each sample."""

    extractor = "watermark"
    topic = "Fidelity"
    range = (0.0, 1.0)
    better = "real"
    min_n = 1

    @classmethod
    @abstractmethod
    def per_image(cls, features: Tensor) -> Tensor:
        """The value of each image, float64 [n]."""

    @classmethod
    def _values(cls, pair: Pair) -> Tensor:
        return cls.per_image(_checked(pair.fake, cls.name))

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(pair.once(cls._values)[fake].mean())

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        values = pair.once(cls._values)[fake]
        return Influence.of(values.new_zeros(len(pair.real[real])), values)


@measure("watermark_bit_accuracy")
class WatermarkBitAccuracy(_OfImages):
    """Mean share of the 32 bits of the key's message that are read right in a sample: 0.5 = no mark, 1 = read
    without an error.

    Exact: without a mark the expectation over keys is 0.5, whatever the images are. Bits whose chips say
    nothing count as half.

    >>> marked = torch.ones(3, 256)
    >>> WatermarkBitAccuracy.of(Pair(-marked, marked))
    1.0
    """

    unit = "share of bits"

    @classmethod
    def per_image(cls, features: Tensor) -> Tensor:
        return bit_shares(features)


@measure("watermark_detected")
class WatermarkDetected(_OfImages):
    """Share of samples in which the mark of the key is detected, at a false positive rate of at most 1%.

    A sample is detected if so many of its chips agree with the key that a random key reaches it with
    probability 0.01 or less (binomial test). The rate is over keys: under one key images of similar content
    agree alike, so that the share of real images (the floor) can be 0 or several percent.

    >>> features = torch.cat([torch.ones(1, 256), torch.ones(3, 256) * torch.tensor([1.0, -1.0]).repeat(128)])
    >>> WatermarkDetected.of(Pair(features, features))
    0.25
    """

    unit = "share of samples"

    @classmethod
    def per_image(cls, features: Tensor) -> Tensor:
        return detected(features).double()


@measure("watermark_z")
class WatermarkZ(PairMetric):
    """Evidence for the mark in all samples together, as a standard normal value: the p-value is 1 - Phi(z).

    For each of the 256 chips the mean agreement with the key over the samples is compared with that over the
    real images; z is the number of chips with more agreement in the samples, by the exact binomial law.
    Exact: if neither set has the mark, a random key gives a z of t > 0 or more with probability at most
    1 - Phi(t). A weak mark gives a z that grows with the root of n, up to the value at which all chips
    agree: 9.1 for 8 x 8 pixels, 18.6 from 16 x 16 on. A mark that the real images carry as well is not seen;
    `watermark_detected` sees it.

    The interval says how much z depends on the images that were drawn.
    """

    extractor = "watermark"
    topic = "Fidelity"
    unit = "standard deviations"
    range = (-float("inf"), float("inf"))
    better = "real"
    min_n = 1

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        x, y = (
            _checked(side, cls.name)[rows].long() for side, rows in ((pair.real, real), (pair.fake, fake))
        )
        # In integers: equal means are exactly equal.
        more = (y.sum(0) * len(x) - x.sum(0) * len(y)).sign()
        return z_of(int((more > 0).sum()), int((more != 0).sum()))

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        """From half-samples: z grows with the root of n, so that their spread is 1/sqrt(2) of that of z."""
        n_real, n_fake = len(pair.real[real]), len(pair.fake[fake])
        rows = [torch.arange(len(side))[of] for side, of in ((pair.real, real), (pair.fake, fake))]
        values = []
        for number in range(HALVES if min(n_real, n_fake) > 1 else 0):
            drawn = half_rows(n_real, n_fake, number, 0)
            values.append(cls.evaluate(pair, rows[0][drawn[0]], rows[1][drawn[1]]))
        error = float(torch.tensor(values).std()) * 2**0.5 if values else float("nan")
        value = cls.evaluate(pair, real, fake)
        bounds = (value - Z95 * error, value + Z95 * error)
        each = torch.full((n_fake,), error / n_fake**0.5, dtype=torch.float64)
        return Influence(torch.zeros(n_real, dtype=torch.float64), each, 0.0, bounds)
