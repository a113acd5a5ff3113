"""Detectors of synthetic images: scores, thresholds and rates.

A score is higher for images that look more synthetic. The threshold comes from real images alone, so that a
new real image is flagged with at most a given probability (split conformal calibration).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.interval import wilson
from difflab.metrics.judge import Judge


@dataclass(frozen=True)
class Rate:
    """A share of flagged images with Wilson's 95% interval.

    Attributes:
        share, low, high: 0 to 1. The interval is about the tested images; the detector is taken as given.
        n: number of tested images.
    """

    share: float
    low: float
    high: float
    n: int


def threshold(real_scores: Tensor, false_positive_rate: float) -> float:
    """The score above which an image is flagged, from scores [n] of real images that fitted nothing.

    A new real image is above it with probability at most `false_positive_rate`. Raises MeasureError if there
    are too few images for that.

    >>> threshold(torch.arange(1.0, 20.0), 0.05)
    19.0
    """
    needed = math.ceil(1 / false_positive_rate - 1 - 1e-9)
    if len(real_scores) < needed:
        raise MeasureError(
            f"a false positive rate of {false_positive_rate:g} needs {needed} real images for the threshold, "
            f"got {len(real_scores)}; give more images or a larger rate"
        )
    position = math.ceil((len(real_scores) + 1) * (1 - false_positive_rate) - 1e-9) - 1
    return float(real_scores.double().sort().values[position])


def rate(scores: Tensor, above: float) -> Rate:
    """The share of scores [n] above a threshold. Raises MeasureError without scores."""
    if not len(scores):
        raise MeasureError("a rate needs at least one image; give images to test the detector on")
    share = float((scores.double() > above).double().mean())
    return Rate(share, *wilson(share, len(scores)), len(scores))


def probe(real: Tensor, fake: Tensor) -> Judge:
    """A logistic regression that tells features of real images [n, d] from those of samples [m, d].

    ``probe(real, fake).probabilities(x)[:, 1]`` is its score.
    """
    labels = torch.cat([torch.zeros(len(real)), torch.ones(len(fake))]).long()
    return Judge.fit(torch.cat([real, fake]), labels, 2)


def spectrum_score(real_power: Tensor, power: Tensor) -> Tensor:
    """How far radial power spectra are from those of real images, float64 [n].

    The mean over the rings of the squared difference to the mean log power of real images, in standard
    deviations over real images. No sample is needed to fit it. Spectra of generated images differ from real
    ones at high frequencies (Durall et al. 2003.01826; Dzanic et al. 1911.06465).

    Args:
        real_power: power of real images, averaged over rings [m, r], positive; see
            `features.texture.radial_spectrum`.
        power: the same of the images to score [n, r].

    Raises MeasureError if no ring varies among the real images.
    """
    real_log, log = real_power.double().log(), power.double().log()
    spread = real_log.std(0)
    varying = spread > 0
    if not varying.any():
        raise MeasureError("the spectra of the real images are all equal; give different real images")
    standardised = (log - real_log.mean(0))[:, varying] / spread[varying]
    return standardised.square().mean(1)
