"""The rules of a diagnosis: the stage, other explanations and looks that follow from readings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from difflab.evaluation.equivalence import excluded
from difflab.evaluation.finding import COURSE, ENCODED, POISONED, Finding
from difflab.evaluation.signs import (
    ABSENT,
    CONTENT,
    DEFECTS,
    DIVERGING,
    ENTANGLED,
    HALLUCINATED,
    INCREASE,
    LOOK,
    LOOKS,
    ONE_SIDED,
    PRESENT,
    RANK,
    SCALING,
    SIGNS,
    TAILS,
    UNKNOWN,
    VARIANCE,
    Reading,
    Z,
)

VERSION = 7
"""To be raised when the same images would get another verdict.

Stored verdicts of another version are computed again.
"""

Readings = dict[str, list[Reading]]
"""Readings by definition, by 'look: NAME', and under 'repeats', 'copies', 'labels', 'between
classes' and 'encoding'."""


def verdict(readings: Sequence[Reading]) -> str:
    """Present if any measure of a definition is present, absent if a relevant harm is excluded (see
    `difflab.evaluation.equivalence`), else cannot tell.
    """
    if any(reading.verdict == PRESENT for reading in readings):
        return PRESENT
    return ABSENT if excluded(readings) else UNKNOWN


def judge(readings: Readings, number: int) -> Finding:
    """The stage and the other explanations of generation `number`."""
    profile = {name: verdict(readings[name]) for name in SIGNS} | {DIVERGING: UNKNOWN, SCALING: UNKNOWN}
    profile = dict(sorted(profile.items()))
    stage = _stage(readings, profile)
    instead: list[str] = []
    if verdict(readings["labels"]) == PRESENT or (
        stage in ("none", "cannot tell") and profile[ENTANGLED] == PRESENT
    ):
        instead.append(POISONED)
    if verdict(readings["copies"]) == PRESENT:
        instead.append("overfitting")
    looks = looks_of(readings)
    if stage in ("none", "cannot tell") and not instead and not looks and _only_encoding(readings):
        instead.append(ENCODED)
    return Finding(number, profile, stage, instead, looks, readings)


def _stage(readings: Readings, profile: dict[str, str]) -> str:
    """'catastrophic', 'late', 'early', 'none' or 'cannot tell', in this order."""
    coverage = [reading for reading in readings[TAILS] if reading.sign.metric == "coverage"]
    # Samples close to each other alone could also be images of a narrowed class, so coverage has to be lost
    # too.
    if verdict(readings["repeats"]) == PRESENT and verdict(coverage) == PRESENT:
        return "catastrophic"
    if profile[ENTANGLED] == PRESENT and _blended(readings):
        return "late"
    if PRESENT in (profile[VARIANCE], profile[TAILS]):
        return "early"
    measured = [name for name in (VARIANCE, ENTANGLED, TAILS) if readings[name]]
    return "none" if all(profile[name] == ABSENT for name in measured) else "cannot tell"


def _blended(readings: Readings) -> bool:
    """Whether concepts are blended, given that the samples are not of the classes they were asked for.

    If labels are wrong, this explains the classes. Then the images show a blend only if they lie between
    classes themselves, which is measured without labels.
    """
    if verdict(readings["labels"]) == PRESENT:
        return verdict(readings["between classes"]) == PRESENT
    return not _like_real(readings)


def _of(readings: Readings, definitions: Iterable[str]) -> list[Reading]:
    """The readings of several definitions."""
    selected = []
    for name in definitions:
        selected += readings[name]
    return selected


def _like_real(readings: Readings) -> bool:
    """Whether the images differ from a control only in the classes that they were asked for.

    The Frechet distance, which sees the whole distribution, has to be within 2 standard errors, other
    measures within `Z`.
    """
    if looks_of(readings):
        return False
    for reading in _of(readings, (INCREASE, VARIANCE, TAILS, HALLUCINATED)):
        if reading.sign.metric == "within_class_ratio":
            continue
        z = 2 if reading.sign.metric == "fd" else Z
        controls = [name for name in reading.controls if not name.endswith((LOOK, DEFECTS))]
        if all(reading.worse_than(name, z) for name in controls):
            return False
    return True


def looks_of(readings: Readings) -> list[str]:
    """The looks that are present, by `RANK`, and within a group the largest shift first."""
    shift_by_look = {}
    for name in LOOKS:
        shifts = [reading.effect for reading in readings[f"look: {name}"] if reading.verdict == PRESENT]
        if shifts:
            shift_by_look[name] = max(shifts)
    return sorted(shift_by_look, key=lambda name: (RANK.get(name, 2), -shift_by_look[name]))


def _only_encoding(readings: Readings) -> bool:
    """Whether the samples are worse than real images, but in no measure worse than re-encoded ones."""
    shifted = [r for r in (*readings["encoding"], *readings[INCREASE]) if r.worse_than("real images")]
    return bool(shifted) and not any(reading.worse_than("re-encoded") for reading in shifted)


def unexplained(readings: Readings) -> set[str]:
    """The feature spaces in which something is worse than real images, so that further controls could explain
    it.

    All of them if something is worse by `Z` standard errors, because less is never present. Those in which a
    measure of content is not absent either and is worse by the standard errors of a one-sided test, because a
    control that explains the harm would make it absent.
    """
    spaces: set[str] = set()
    for name, of_definition in readings.items():
        if name in ("copies", "repeats"):  # no control of these has another encoding or look
            continue
        for reading in of_definition:
            if reading.worse_than("real images"):
                return {each.space for each in _of(readings, readings)}
            undecided = name in CONTENT and reading.verdict == UNKNOWN
            if undecided and reading.worse_than("real images", ONE_SIDED):
                spaces.add(reading.space)
    return spaces


def failed(readings: Readings) -> bool:
    """Whether some measure is worse than on real images, but not worse than in generation 0."""
    for reading in _of(readings, (VARIANCE, ENTANGLED, TAILS, HALLUCINATED)):
        if "generation 0" not in reading.controls or reading.worse_than("generation 0"):
            continue
        effects = reading.effects()
        real = ("real images", "re-encoded")
        if all(reading.worse_than(name) and effects[name][0] >= reading.relevant for name in real):
            return True
    return False


def over_time(findings: list[Finding]) -> None:
    """Set definition 3 of the last finding from the course of the Frechet distance over `COURSE` generations
    or more.

    Present if it grows at least as fast in the second half of the generations as in the first, and by more
    than chance. Absent if it grows less than half as fast. This is the direction at the end of the chain: a
    finite chain has no limit.
    """
    points = []
    for finding in findings:
        if finding.readings[INCREASE]:
            reading = finding.readings[INCREASE][-1]
            points.append((reading.value, reading.error))
    if len(points) < COURSE or len(points) != len(findings):
        return
    middle = len(points) // 2
    (v0, _), (v1, e1), (v2, e2) = points[0], points[middle], points[-1]
    early, late = (v1 - v0) / middle, (v2 - v1) / (len(points) - 1 - middle)
    late_error = math.hypot(e1, e2) / (len(points) - 1 - middle)
    most = late + 1.96 * late_error
    last = findings[-1]
    relevant = last.readings[INCREASE][-1].relevant
    if late - Z * late_error > 0 and most >= early:
        last.profile[DIVERGING] = PRESENT
    elif most < max(early, 0) / 2 or (early <= 0 and most < relevant):
        last.profile[DIVERGING] = ABSENT
