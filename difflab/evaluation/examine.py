"""Diagnose sets of images in memory: take the readings of every generation and derive its finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from difflab.core.errors import MeasureError
from difflab.core.rows import STATISTICS
from difflab.core.threads import together
from difflab.evaluation.controls import FEW_LEVELS
from difflab.evaluation.finding import DAMAGED, ENCODED, POISONED, Diagnosis, Finding
from difflab.evaluation.missing_classes import missing_classes
from difflab.evaluation.overlap import Overlap
from difflab.evaluation.per_class import damaged_classes
from difflab.evaluation.readings import LEAST, Images, Key, Measured, RealSide, readings_of
from difflab.evaluation.rules import failed, judge, looks_of, over_time, unexplained, verdict
from difflab.evaluation.signs import LOOK, LOOKS, PRESENT, TAILS, VARIANCE, Reading, Z
from difflab.metrics import Extractor, open_extractor

Generation0 = tuple[Images, dict[Key, Measured]]


def examine(
    reference: Images,
    other: Images,
    generations: Sequence[Images],
    *,
    train: Images | None = None,
    unseen: Images | None = None,
    classes: list[str] | None = None,
    extractors: Sequence[Extractor],
    neighbours: int = 5,
    resamples: int = 40,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    notes: list[str] | None = None,
) -> Diagnosis:
    """Diagnose `generations`.

    All sides are cut to the smallest number of images. Raises MeasureError below 30.

    Args:
        reference, other: disjoint sets of real images of one kind, of equal size.
        train: the images that the first model was trained on.
        unseen: further labelled real images, not in `other`, for the class judges to learn from.
        classes: names of the classes.
        numbers: numbers of the generations; None = 0, 1, ...
        notes: are put before the notes of the diagnosis.
    """
    n = min(len(reference), len(other), *(len(images) for images in generations))
    if n < LEAST:
        raise MeasureError(
            f"a diagnosis needs at least {LEAST} images of every generation and twice as many real ones, got "
            f"{n}"
        )
    overlap = Overlap(reference.pixels, other.pixels, None if train is None else train.pixels)
    real = RealSide(
        reference[:n],
        other[:n],
        train,
        unseen,
        extractors,
        [open_extractor(spec) for spec in STATISTICS],
        classes,
        neighbours,
        resamples,
        seed,
        overlap.known,
    )
    for extractor in (*real.extractors, *real.statistics):
        real.features(extractor, real.reference)  # before threads that would both compute them
    findings: list[Finding] = []
    first: Generation0 | None = None
    several = len(generations) > 1
    for number, images in zip(numbers or range(len(generations)), generations, strict=True):
        finding, first = _finding(real, images[:n], number, first, several)
        overlap.judge(finding, images[:n].pixels)
        findings.append(finding)
    over_time(findings)
    recipe: dict[str, Any] = {"n": n, "neighbours": neighbours, "resamples": resamples, "z": Z}
    recipe["extractors"] = [extractor.recipe for extractor in extractors]
    return Diagnosis(findings, [*(notes or []), *sorted(real.notes)], recipe, overlap.doubts)


def _finding(
    real: RealSide,
    images: Images,
    number: int,
    first: Generation0 | None,
    several: bool,
) -> tuple[Finding, Generation0]:
    """The finding of one generation, and generation 0 with its measures.

    Args:
        first: generation 0; None = `images` are generation 0.
        several: whether there are further generations.
    """
    samples, _ = together(lambda: real.measure_all(images), lambda: real.floor)
    readings, left_out = _readings(real, images, samples, first)
    finding = judge(readings, number)
    if POISONED in finding.instead:
        _look_behind_labels(real, images, first, finding)
    gone = missing_classes(real, images)
    finding.left_out, finding.gone, finding.n = left_out, _names(real, gone), len(images)
    if len(gone):
        _explain_by_missing_classes(real, images, gone, finding)
    _name_damaged_classes(real, images, gone, first, finding)
    if first is None and several:
        # The first model has lost nothing yet if it falls short of real images. It is a control for later
        # generations.
        if finding.stage not in ("none", "cannot tell"):
            finding.stage, finding.instead = "none", ["weak first model", *finding.instead]
    elif first is not None and not finding.alarm and failed(readings):
        finding.instead = ["weak first model"]
    return finding, first or (images, samples)


def _readings(
    real: RealSide, images: Images, samples: dict[Key, Measured], first: Generation0 | None = None
) -> tuple[dict[str, list[Reading]], dict[str, str]]:
    """As `readings_of`. Controls that cost a pass of the networks are taken only in the feature spaces in
    which something is worse than real images, because they could explain nothing else.
    """
    base, name = (real.other, "real images") if first is None else (first[0], "generation 0")
    generation_0 = {} if first is None else {"generation 0": first[1]}
    readings = readings_of(real, samples, {"real images": real.floor, **generation_0}, len(images))
    spaces = unexplained(readings[0])
    if not spaces:
        return readings
    controls = {"real images": real.floor, "re-encoded": real.measure_reencoded(spaces), **generation_0}
    looks = looks_of(readings_of(real, samples, controls, len(images))[0])  # that no such control explains
    in_look = f"{name} {LOOK}"
    if FEW_LEVELS & set(looks):
        controls[in_look] = real.measure_levels_filtered(base, images)
        looks = looks_of(readings_of(real, samples, controls, len(images))[0])
    for change, measured in real.measures_in_look(base, images, looks, spaces).items():
        controls[f"{name} {change}"] = controls.get(f"{name} {change}", {}) | measured
    readings = readings_of(real, samples, controls, len(images))
    if verdict(readings[0]["copies"]) != PRESENT:
        return readings
    controls[in_look] |= real.measure_copies_in_look(images, looks)
    return readings_of(real, samples, controls, len(images))


def _look_behind_labels(real: RealSide, images: Images, first: Generation0 | None, finding: Finding) -> None:
    """Read variance and tails again by the classes that the judge sees in samples and controls.

    Wrong labels mix the classes, which hides what each of them has lost.
    """
    extractor = real.extractors[-1]
    judge_ = real.judges[extractor.name]

    def as_shown(side: Images) -> Images:
        return replace(side, labels=judge_.predict(real.features(extractor, side)).cpu().numpy())

    shown, part = as_shown(images), real.with_other(as_shown(real.other))
    base = None
    if first is not None:
        generation_0 = as_shown(first[0])
        base = (generation_0, part.measure_all(generation_0))
    again = judge(_readings(part, shown, part.measure_all(shown), base)[0], finding.generation)
    for name in (VARIANCE, TAILS):
        finding.readings[name], finding.profile[name] = again.readings[name], again.profile[name]
        if again.profile[name] == PRESENT and finding.stage in ("none", "cannot tell"):
            finding.stage = "early"


def _explain_by_missing_classes(real: RealSide, images: Images, gone: np.ndarray, finding: Finding) -> None:
    """Name the missing classes as an explanation.

    If the other classes show no stage by themselves, there is no stage.
    """
    assert real.reference.labels is not None
    finding.instead = ["forgetting", *finding.instead]
    rest = _rest(real, images, np.setdiff1d(real.reference.labels, gone), finding.generation)
    if rest is not None and rest.stage in ("none", "cannot tell"):
        finding.stage, finding.instead = rest.stage, ["forgetting", *rest.instead]


def _name_damaged_classes(
    real: RealSide, images: Images, gone: np.ndarray, first: Generation0 | None, finding: Finding
) -> None:
    """Name the classes that are damaged by themselves, unless the other classes show a loss as well.

    What those show without the damaged classes replaces the finding from all classes.
    """
    damaged = damaged_classes(real, images, None if first is None else first[0])
    if not damaged:
        return
    assert real.reference.labels is not None
    kept = np.setdiff1d(real.reference.labels, [*damaged, *gone])
    rest = _rest(real, images, kept, finding.generation, first)
    if rest is None or rest.alarm:
        return
    # An encoding does more to some classes than to others. A control at the quality of the samples would make
    # this case superfluous, but quality is estimated from blocks, which do not show from about 60 on.
    if ENCODED in rest.instead:
        damaged = {c: words for c, words in damaged.items() if not LOOKS.keys() & set(words)}
        if not damaged:
            return
    finding.classes = dict(zip(_names(real, list(damaged)), damaged.values(), strict=True))
    finding.stage, finding.looks = rest.stage, rest.looks
    forgetting = [name for name in finding.instead if name == "forgetting"]
    finding.instead = [*forgetting, DAMAGED, *rest.instead]


def _rest(
    real: RealSide, images: Images, kept: np.ndarray, number: int, first: Generation0 | None = None
) -> Finding | None:
    """The finding from the classes `kept` alone; None if there are too few images of them."""
    sides = [real.reference, real.other, images] + ([] if first is None else [first[0]])
    chosen = [np.ones(len(side), bool) if side.labels is None else side.of(kept) for side in sides]
    n = min(int(rows.sum()) for rows in chosen)
    if n < LEAST:
        return None
    part = real.only(kept, n)
    images, *others = (real.cut(side, rows, n) for side, rows in zip(sides[2:], chosen[2:], strict=True))
    base = (others[0], part.measure_all(others[0])) if others else None
    return judge(_readings(part, images, part.measure_all(images), base)[0], number)


def _names(real: RealSide, classes: Iterable[int]) -> list[str]:
    return [real.classes[c] if real.classes is not None else str(c) for c in classes]
