"""What a diagnosis excludes: the harm that the samples can have at most, and how many images would be enough.

No significant harm is not the same as no harm: with few images nothing is significant. A definition is absent
only if a relevant harm is excluded, which is a test of equivalence (Schuirmann 1987, J. Pharmacokinet.
Biopharm. 15).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from difflab.evaluation.signs import (
    ABSENT,
    ENTANGLED,
    HALLUCINATED,
    ONE_SIDED,
    TAILS,
    VARIANCE,
    Reading,
)

WORDS = {
    "trace_ratio": "variance",
    "within_class_ratio": "variance within classes",
    "vendi": "Vendi score",
    "class_accuracy": "class accuracy",
}
"""Measures in the words of a sentence, where these are not their names."""


def by_measure(readings: Sequence[Reading]) -> dict[str, list[Reading]]:
    """The readings of measures that decide about an absence, by measure."""
    deciding: dict[str, list[Reading]] = {}
    for reading in readings:
        if reading.sign.decides:
            deciding.setdefault(reading.sign.metric, []).append(reading)
    return deciding


def excluded(readings: Sequence[Reading]) -> bool:
    """Whether a relevant harm is excluded: by each deciding measure in at least one feature space, while no
    such measure looks worse by a relevant amount in another one.
    """
    deciding = by_measure(readings)
    if not deciding:
        return False
    for of_measure in deciding.values():
        if all(reading.verdict != ABSENT for reading in of_measure):
            return False
        if any(reading.seems_worse for reading in of_measure):
            return False
    return True


def bounds(readings: Mapping[str, Sequence[Reading]]) -> dict[str, float]:
    """The largest loss that is not excluded, as a share of the value between real images, by measure.

    Of several feature spaces the one that excludes most counts. One-sided, with 95% confidence per measure.
    """
    shares: dict[str, float] = {}
    for definition in (TAILS, VARIANCE, ENTANGLED, HALLUCINATED):
        for metric, of_measure in by_measure(readings.get(definition, ())).items():
            if any(reading.verdict == ABSENT for reading in of_measure):
                shares[metric] = min(reading.bound for reading in of_measure)
    return shares


def bounds_in_words(readings: Mapping[str, Sequence[Reading]]) -> str:
    """Such as 'with 95% confidence per measure, less than 4% of recall and 3% of coverage is lost'; '' if
    nothing is excluded.
    """
    parts = [
        f"{max(1, math.ceil(100 * share))}% of {WORDS.get(metric, metric)}"
        for metric, share in bounds(readings).items()
    ]
    if not parts:
        return ""
    *others, last = parts
    text = f"{', '.join(others)} and {last}" if others else last
    return f"with 95% confidence per measure, less than {text} is lost"


def enough(readings: Sequence[Reading]) -> int | None:
    """The number of images on each side at which a definition would be absent in 95% of draws, if the samples
    are like real images: two significant digits; None if a measure has no error.

    Errors shrink with the square root of the number of images. Both the test and its power take 5%, so the
    error has to be a `1 / (2 * ONE_SIDED)` of what is relevant.
    """
    wanted = 0.0
    for of_measure in by_measure(readings).values():
        counts = [_enough(reading) for reading in of_measure]
        wanted = max(wanted, min(counts))
    if not 0 < wanted < math.inf:
        return None
    digits = 10 ** max(0, math.floor(math.log10(wanted)) - 1)
    return math.ceil(wanted / digits) * digits


def _enough(reading: Reading) -> float:
    if not reading.relevant:
        return math.inf
    error = min(error for _, error in reading.effects().values())
    return float(reading.n * (2 * ONE_SIDED * error / reading.relevant) ** 2)
