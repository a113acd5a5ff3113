"""The share of synthetic images in a set, from a detector with errors: point estimates and 95% intervals.

A detector flags `flagged` of n images. The share of flags is not the share of synthetic images: it is
share * sensitivity + (1 - share) * (1 - specificity). There are two ways to correct it.

- **Calibration images** of known origin, which the detector was not trained on, measure the two rates:
  `share_in_set`, `lang_reiczigel`. Both assume that the rates are those of the audited images. They are not
  for a generator that the calibration does not hold; see `least_share` and `share_at_rates`.
- **Labels** of a random part of the set itself: `post_stratified`, `prediction_powered`. They assume nothing
  about the detector.

`share_in_set` and `post_stratified` are about this set: if every image is scored, the choice of its images is
no source of error. `lang_reiczigel` is about the population that the set was drawn from.

How often the intervals hold the share, and how wide they are, is measured by ``benchmarks/prevalence.py``
(table: docs/audit.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from difflab.core.errors import MeasureError
from difflab.metrics.interval import Z95, wilson

LEAST_YOUDEN = 0.2
"""Least sensitivity + specificity - 1. A detector below it gives no share: "cannot tell"."""


@dataclass(frozen=True)
class Calibration:
    """What a detector did on images of known origin that it was not trained on.

    Attributes:
        detected, synthetic: flagged synthetic images, and all synthetic images.
        passed, real: real images that were not flagged, and all real images.

    >>> Calibration(45, 50, 49, 50).youden
    0.88
    """

    detected: int
    synthetic: int
    passed: int
    real: int

    def __post_init__(self) -> None:
        if not (0 <= self.detected <= self.synthetic and 0 <= self.passed <= self.real):
            raise MeasureError(f"a calibration counts a part of its images, not {self}")
        if not (self.synthetic and self.real):
            raise MeasureError("a calibration needs at least 1 synthetic and 1 real image")

    @property
    def sensitivity(self) -> float:
        """Share of the synthetic images that are flagged (true positive rate)."""
        return self.detected / self.synthetic

    @property
    def specificity(self) -> float:
        """Share of the real images that are not flagged (1 - false positive rate)."""
        return self.passed / self.real

    @property
    def youden(self) -> float:
        """Sensitivity + specificity - 1: 0 for a detector that tells nothing, 1 for one without errors."""
        return self.sensitivity - (1 - self.specificity)


@dataclass(frozen=True)
class Labelled:
    """Labels of a random part of the audited images, by what the detector says of them.

    Attributes:
        flagged_synthetic, flagged: of the labelled images that are flagged, the synthetic ones, and all.
        other_synthetic, other: the same of the labelled images that are not flagged.
    """

    flagged_synthetic: int
    flagged: int
    other_synthetic: int
    other: int

    def __post_init__(self) -> None:
        if not (0 <= self.flagged_synthetic <= self.flagged and 0 <= self.other_synthetic <= self.other):
            raise MeasureError(f"labels count a part of the labelled images, not {self}")

    @property
    def n(self) -> int:
        return self.flagged + self.other


@dataclass(frozen=True)
class ShareInterval:
    """A share from 0 to 1 with its 95% interval, and the method that made it."""

    estimate: float
    low: float
    high: float
    method: str


def _checked(flagged: int, n: int) -> None:
    if not 0 <= flagged <= n or not n:
        raise MeasureError(f"a share needs 0 <= flagged <= n and n >= 1, got {flagged} of {n}")


def _bounded(estimate: float, low: float, high: float, method: str) -> ShareInterval:
    low, high = (min(1.0, max(0.0, bound)) for bound in (low, high))
    return ShareInterval(min(high, max(low, estimate)), low, high, method)


def share_at_rates(flagged: int, n: int, sensitivity: float, specificity: float) -> float:
    """Rogan & Gladen (1978): the share if the rates were exactly these; clipped to 0..1, without an interval.

    Raises MeasureError if sensitivity + specificity <= 1.

    >>> round(share_at_rates(140, 1000, 0.9, 0.98), 3)
    0.136
    """
    _checked(flagged, n)
    youden = sensitivity + specificity - 1
    if youden <= 0:
        raise MeasureError(f"a detector with sensitivity + specificity - 1 = {youden:.3g} says nothing")
    return min(1.0, max(0.0, (flagged / n + specificity - 1) / youden))


def tells(calibration: Calibration) -> bool:
    """Whether the detector is good enough for a share, see `LEAST_YOUDEN`."""
    return calibration.youden >= LEAST_YOUDEN - 1e-12


def lang_reiczigel(flagged: int, n: int, calibration: Calibration) -> ShareInterval | None:
    """Lang & Reiczigel (2014, Prev. Vet. Med. 113:13): about the population that the n images are drawn from.

    None if the detector cannot tell (`tells`). Raises MeasureError for counts that are none.

    >>> found = lang_reiczigel(140, 1000, Calibration(180, 200, 196, 200))
    >>> [round(x, 3) for x in (found.low, found.high)]
    [0.1, 0.167]
    """
    _checked(flagged, n)
    if not tells(calibration):
        return None
    z2 = Z95**2
    size, n_synthetic, n_real = n + z2, calibration.synthetic, calibration.real
    p = (flagged + z2 / 2) / size
    sensitivity = (calibration.detected + 1) / (n_synthetic + 2)
    specificity = (calibration.passed + 1) / (n_real + 2)
    youden = sensitivity + specificity - 1
    if youden <= 0:
        return ShareInterval(flagged / n, 0.0, 1.0, "Lang and Reiczigel")
    share = (p + specificity - 1) / youden
    of_synthetic = sensitivity * (1 - sensitivity) / n_synthetic
    of_real = specificity * (1 - specificity) / n_real
    shift = 2 * z2 * (share * of_synthetic - (1 - share) * of_real)
    variance = p * (1 - p) / size + share**2 * of_synthetic + (1 - share) ** 2 * of_real
    half = Z95 * math.sqrt(variance) / youden
    estimate = share_at_rates(flagged, n, calibration.sensitivity, calibration.specificity)
    return _bounded(estimate, share + shift - half, share + shift + half, "Lang and Reiczigel")


def share_in_set(flagged: int, n: int, calibration: Calibration) -> ShareInterval | None:
    """The share in these n images: all shares that a score test at the 5% level does not reject.

    With f = 1 - specificity, flagged / n - share * sensitivity - (1 - share) * f has mean 0. Its variance is
    a function of the share; the set of shares where it is within z standard deviations is an interval between
    the roots of a quadratic equation (Fieller 1954). Rates have one success and one failure added (Agresti &
    Coull 1998). In contrast to `lang_reiczigel` the number of synthetic images in the set is not random.

    None if the detector cannot tell (`tells`). Raises MeasureError for counts that are none.

    >>> found = share_in_set(1400, 10_000, Calibration(180, 200, 196, 200))
    >>> [round(x, 3) for x in (found.estimate, found.low, found.high)]
    [0.136, 0.109, 0.155]
    """
    _checked(flagged, n)
    if not tells(calibration):
        return None
    z2, p = Z95**2, flagged / n
    sensitivity = (calibration.detected + 1) / (calibration.synthetic + 2)
    false_rate = (calibration.real - calibration.passed + 1) / (calibration.real + 2)
    flags_of_synthetic = sensitivity * (1 - sensitivity)  # variance of the flag of one synthetic image
    flags_of_real = false_rate * (1 - false_rate)
    of_synthetic = flags_of_synthetic / (calibration.synthetic + 2)
    of_real = flags_of_real / (calibration.real + 2)
    youden, excess = sensitivity - false_rate, p - false_rate
    # (excess - share * youden)^2 <= z^2 * variance(share), sorted by powers of the share
    square = youden**2 - z2 * (of_synthetic + of_real)
    linear = -2 * excess * youden - z2 * ((flags_of_synthetic - flags_of_real) / n - 2 * of_real)
    constant = excess**2 - z2 * (flags_of_real / n + of_real)
    estimate = share_at_rates(flagged, n, calibration.sensitivity, calibration.specificity)
    if square <= 0 or youden <= 0:  # the rates are too uncertain to bound the share
        return _bounded(estimate, 0.0, 1.0, "score interval")
    root = math.sqrt(max(0.0, linear**2 - 4 * square * constant))
    low, high = (-linear - root) / (2 * square), (-linear + root) / (2 * square)
    return _bounded(estimate, low, high, "score interval")


def least_share(flagged: int, n: int, calibration: Calibration) -> float:
    """A lower 95% bound of the share that holds at any sensitivity, so also for unseen generators.

    A generator that the detector sees less often needs more images for as many flags. So the share is at
    least that of a detector with sensitivity 1. The bound takes the upper end of Wilson's interval of the
    false positive rate, and the lower end of that of the share of flags. It still assumes that the real
    images of the calibration are like those of the set. It is 0 where false positives explain all flags.

    >>> round(least_share(1400, 10_000, Calibration(180, 200, 196, 200)), 3)
    0.087
    """
    _checked(flagged, n)
    highest = wilson(1 - calibration.specificity, calibration.real)[1]
    p = wilson(flagged / n, n)[0]
    return max(0.0, (p - highest) / (1 - highest)) if highest < 1 else 0.0


def prediction_powered(flagged: int, n: int, labelled: Labelled) -> ShareInterval:
    """Prediction-powered inference (Angelopoulos et al. 2023, 2301.09633) of a mean, with a t quantile.

    The mean of the flags plus the mean of (label - flag) over the labelled images. The variance is zero if no
    labelled image contradicts its flag: with a good detector and few labels the interval then is far too
    short. `post_stratified` is not. Raises MeasureError for fewer than 2 labels.

    >>> found = prediction_powered(1400, 10_000, Labelled(27, 29, 3, 171))
    >>> [round(x, 3) for x in (found.estimate, found.low, found.high)]
    [0.145, 0.122, 0.168]
    """
    from scipy.stats import t

    _checked(flagged, n)
    m = labelled.n
    if m < 2:
        raise MeasureError(f"prediction-powered inference needs at least 2 labels, got {m}")
    p, wrong_flags = flagged / n, labelled.flagged - labelled.flagged_synthetic
    correction = (labelled.other_synthetic - wrong_flags) / m
    squares = (labelled.other_synthetic + wrong_flags) / m
    variance = (squares - correction**2) * m / (m - 1) / m + p * (1 - p) / n
    half = float(t.ppf(0.975, m - 1)) * math.sqrt(variance)
    estimate = p + correction
    return _bounded(estimate, estimate - half, estimate + half, "prediction-powered")


def post_stratified(flagged: int, n: int, labelled: Labelled) -> ShareInterval:
    """The share in these n images, from labels of a random part: strata are the flagged and the other images.

    The estimate is the maximum likelihood one for double sampling (Tenenbein 1970). Each stratum has a Wilson
    interval with the correction for a finite population (a stratum whose images are all labelled has no
    error); the two are combined with MOVER (Zou & Donner 2008). A stratum without a label adds 0 to 1.

    Raises MeasureError for more labels than images in a stratum, and without a label.

    >>> found = post_stratified(1400, 10_000, Labelled(27, 29, 3, 171))
    >>> [round(x, 3) for x in (found.estimate, found.low, found.high)]
    [0.145, 0.122, 0.174]
    """
    _checked(flagged, n)
    if not labelled.n:
        raise MeasureError("labels: there is none, label at least one image")
    estimate = below = above = 0.0
    strata = (
        (flagged, labelled.flagged_synthetic, labelled.flagged),
        (n - flagged, labelled.other_synthetic, labelled.other),
    )
    for size, synthetic, count in strata:
        if count > size:
            raise MeasureError(f"labels: {count} labels in a stratum of {size} images; label an image once")
        if not size:
            continue
        share, low, high = _of_stratum(synthetic, count, size)
        weight = size / n
        estimate += weight * share
        below += (weight * (share - low)) ** 2
        above += (weight * (high - share)) ** 2
    low, high = estimate - math.sqrt(below), estimate + math.sqrt(above)
    return _bounded(estimate, low, high, "post-stratified")


def _of_stratum(synthetic: int, count: int, size: int) -> tuple[float, float, float]:
    """Share and bounds of a stratum of `size` images, of which `count` are labelled."""
    if not count:
        return 0.5, 0.0, 1.0
    share = synthetic / count
    if count == size:
        return share, share, share
    low, high = wilson(share, count / (1 - count / size))
    # what is labelled is known: bounds cannot leave out labelled images
    return share, max(low, synthetic / size), min(high, 1 - (count - synthetic) / size)
