"""Artefact measures: how far palette, banding, blocking and ringing of samples are shifted from those of real
images.

One `<statistic>_shift` for each entry of `difflab.features.artefacts.STATISTICS`. They read the features of
the extractor `artefacts` and no others.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.features.artefacts import STATISTICS
from difflab.metrics.metric import measure
from difflab.metrics.texture import Shift, spread


class _ArtefactShift(Shift):
    """Median over samples minus median over real images, in interquartile ranges of the real images, or in
    the least shift that can be seen, where that is more.

    Real images can be so alike in a statistic that what nobody sees would be many of their interquartile
    ranges.
    """

    extractor = "artefacts"
    statistics = STATISTICS
    unit = "real interquartile ranges or visible steps"
    visible: ClassVar[float]
    """The least unit, in the units of the statistic."""
    never: ClassVar[str] = ""
    """Why a statistic can be the same in all images."""

    @classmethod
    def unit_of(cls, real_values: Tensor) -> float:
        """The unit of the shift. Raises MeasureError where the statistic is the same in all real images."""
        if bool((real_values == real_values[0]).all()):
            raise MeasureError(
                f"{cls.name} has no value: {cls.statistic()} is the same in all real images: {cls.never}"
            )
        return max(float(spread(real_values)), cls.visible)


@measure("palette_shift")
class PaletteShift(_ArtefactShift):
    """Below 0: samples use fewer levels than real images, as if they were posterised.

    The least unit is 0.1: a tenth of the levels.
    """

    visible = 0.1
    never = "they have two levels or one"


@measure("banding_shift")
class BandingShift(_ArtefactShift):
    """Above 0: more of the gentle ramps of samples are steps between flats than in real images.

    The least unit is 0.2: a fifth of the ramps.
    """

    visible = 0.2
    never = "they have no gentle ramps with a step"


@measure("blocking_shift")
class BlockingShift(_ArtefactShift):
    """Above 0: samples differ more across the borders of 8 x 8 blocks than real images, as in JPEG of low
    quality.

    The least unit is 0.1: a tenth of the mean difference of neighbours. Images of fewer than 10 pixels a side
    have no border inside, hence no value: MeasureError.
    """

    visible = 0.1
    never = "they have no border of 8 x 8 blocks inside"


@measure("ringing_shift")
class RingingShift(_ArtefactShift):
    """Above 0: edges of samples are followed by swings that those of real images lack.

    The least unit is 0.01: one percent of the height of an edge. Real images without an edge that has a flat
    side of 7 pixels have no value: MeasureError.
    """

    visible = 0.01
    never = "they have no edge with a flat side of 7 pixels"
