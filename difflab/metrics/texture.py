"""Texture measures: how far the distributions of the eight image statistics have moved from those of real
images.

`texture_distance`, and one `<statistic>_shift` for each entry of `difflab.features.texture.STATISTICS`.
They read the features of the extractor `texture` and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.features.texture import STATISTICS
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows

EXTRACTOR, UNIT = "texture", "real interquartile ranges"
COLOUR = ("colourfulness", "saturation")
"""Statistics that are 0 for grey images."""


def _columns(features: Tensor, extractor: str, statistics: Sequence[str]) -> Tensor:
    if features.shape[1] != len(statistics):
        raise MeasureError(
            f"measures of the extractor {extractor} read its {len(statistics)} statistics, got "
            f"{features.shape[1]} features"
        )
    return features.double()


def spread(real: Tensor) -> Tensor:
    """Interquartile range of each column, float64 [d]."""
    quartiles = torch.quantile(real, torch.tensor([0.25, 0.75], dtype=real.dtype, device=real.device), dim=0)
    return quartiles[1] - quartiles[0]


def _varying(pair: Pair) -> Tensor:
    """The statistics that vary among the real images of the pair, int64 [k]. Raises MeasureError where none
    does.
    """
    varying = (spread(_columns(pair.real, EXTRACTOR, STATISTICS)) > 0).nonzero().squeeze(1)
    if not len(varying):
        raise MeasureError(
            "texture_distance has no value: no statistic varies among the real images, so there is no unit "
            "to count in"
        )
    return varying


def wasserstein(x: Tensor, y: Tensor) -> float:
    """Wasserstein-1 distance between two samples [n] and [m] of numbers: the area between their distribution
    functions.

    >>> wasserstein(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 5.0, 5.0, 2.0]))
    3.0
    """
    both = torch.cat([x, y]).sort().values
    below_x, below_y = (
        torch.searchsorted(side.sort().values, both[:-1], right=True).double() / len(side) for side in (x, y)
    )
    return float(((below_x - below_y).abs() * both.diff()).sum())


@measure("texture_distance")
class TextureDistance(PairMetric):
    """Mean over the eight image statistics of the Wasserstein-1 distance between samples and real images, in
    interquartile ranges of the real images.

    Statistics that do not vary among the real images (the two of colour, for grey images) have no unit
    and are left out.

    >>> x = torch.arange(5.0).unsqueeze(1).expand(5, 8)
    >>> TextureDistance.of(Pair(x, x + 1))
    0.5
    """

    extractor = EXTRACTOR
    unit = UNIT
    range = (0.0, float("inf"))
    better = "lower"
    topic = "Aesthetics and texture"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        varying = pair.once(_varying)
        real_columns, fake_columns = (
            _columns(side[rows], EXTRACTOR, STATISTICS)[:, varying]
            for side, rows in ((pair.real, real), (pair.fake, fake))
        )
        moved = [
            wasserstein(x, y)
            for x, y in zip(real_columns.T.contiguous(), fake_columns.T.contiguous(), strict=True)
        ]
        return float((torch.tensor(moved, dtype=torch.float64) / spread(real_columns).cpu()).mean())


class Shift(PairMetric):
    """Median over samples minus median over real images, in interquartile ranges of the real images: 0 =
    equal, signed.

    The measure is called after its statistic: `contrast_shift` reads the column `contrast`.
    """

    extractor = EXTRACTOR
    statistics: ClassVar[tuple[str, ...]] = STATISTICS
    """The columns of the extractor."""
    unit = UNIT
    range = (-float("inf"), float("inf"))
    better = "real"
    topic = "Aesthetics and texture"

    @staticmethod
    def centre(values: Tensor) -> Tensor:
        return values.quantile(0.5)

    @classmethod
    def statistic(cls) -> str:
        """The name of the column."""
        return cls.name.removesuffix("_shift")

    @classmethod
    def unit_of(cls, real_values: Tensor) -> float:
        """What the shift is counted in. Raises MeasureError where that is 0."""
        unit = float(spread(real_values))
        if unit == 0:
            statistic = cls.statistic()
            grey = ": grey images have no colour" if statistic in COLOUR else ""
            raise MeasureError(
                f"{cls.name} has no value: {statistic} is the same in half of the real images or more, so "
                f"there is no unit{grey}"
            )
        return unit

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        column = cls.statistics.index(cls.statistic())
        real_values, fake_values = (
            _columns(side[rows], cls.extractor, cls.statistics)[:, column]
            for side, rows in ((pair.real, real), (pair.fake, fake))
        )
        unit = cls.unit_of(real_values)
        return float(cls.centre(fake_values) - cls.centre(real_values)) / unit


class _ColourShift(Shift):
    """Mean over samples minus mean over real images, in interquartile ranges of the real images: 0 = equal,
    signed.

    Images without colour stay without it, and where they are many the median is among them; hence the
    mean. Where all images move in one direction it is the Wasserstein-1 distance. Grey images:
    MeasureError.
    """

    @staticmethod
    def centre(values: Tensor) -> Tensor:
        return values.mean()


@measure("colourfulness_shift")
class ColourfulnessShift(_ColourShift):
    """Above 0: samples are more colourful than real images, on average. Grey images have no value:
    MeasureError.
    """


@measure("saturation_shift")
class SaturationShift(_ColourShift):
    """Above 0: samples are more saturated than real images, on average. Grey images have no value:
    MeasureError.
    """


@measure("contrast_shift")
class ContrastShift(Shift):
    """Above 0: samples have more contrast than real images."""


@measure("sharpness_shift")
class SharpnessShift(Shift):
    """Above 0: samples are sharper, or noisier, than real images. Below 0: they are blurred."""


@measure("spectral_slope_shift")
class SpectralSlopeShift(Shift):
    """Above 0: the spectrum of samples is flatter, with more fine structure or noise, than that of real
    images. Below 0: it is smoother.
    """


@measure("high_frequency_shift")
class HighFrequencyShift(Shift):
    """Above 0: a larger share of the power of samples is at fine scales than in real images."""


@measure("bits_per_pixel_shift")
class BitsPerPixelShift(Shift):
    """Above 0: samples are harder to compress than real images. Below 0: they are simpler."""


@measure("local_entropy_shift")
class LocalEntropyShift(Shift):
    """Above 0: patches of samples hold more grey levels than those of real images. Below 0: they are
    flatter.
    """
