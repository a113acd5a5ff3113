"""Take the measures of a diagnosis on samples and on controls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from difflab.core.errors import MeasureError
from difflab.core.seeds import seed_of
from difflab.core.threads import each_on_a_core
from difflab.data.content import contents_of, within
from difflab.evaluation.controls import BLOCKED, FEW_LEVELS, defective, in_look, matched, reencoded
from difflab.evaluation.signs import (
    BETWEEN,
    CONTENT,
    COPIES,
    DEFECTS,
    ENCODING,
    LABELS,
    LOOK,
    LOOKS,
    REPEATS,
    SIGNS,
    Reading,
    Sign,
)
from difflab.metrics import METRICS, Extractor, Judge, Pair, PairMetric
from difflab.metrics.covariance import trace_of_covariance
from difflab.metrics.interval import resampled
from difflab.metrics.measurement import Measurement, error_of_difference, take

LEAST = 30
"""Fewest images on a side. A standard error from fewer images is a guess."""
Key = tuple[str, str]
"""Extractor and measure."""
Measured = Measurement | str
"""A measure on samples or on a control, or the reason why it has no value."""


@dataclass(frozen=True)
class Images:
    """A set of images.

    Attributes:
        pixels: uint8 [n, H, W, C].
        labels: int64 [n], the class that each image shows or was asked for; None = unlabelled.
    """

    pixels: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Any) -> Images:
        return Images(self.pixels[rows], None if self.labels is None else self.labels[rows])

    def of(self, classes: np.ndarray) -> np.ndarray:
        """bool [n]: whether each image is of one of `classes`."""
        return np.zeros(len(self), bool) if self.labels is None else np.isin(self.labels, classes)


def _metrics(signs: Sequence[Sign]) -> list[str]:
    return list(dict.fromkeys(sign.metric for sign in signs))


def _joined(groups: Sequence[tuple[Sign, ...]]) -> list[Sign]:
    joined: list[Sign] = []
    for signs in groups:
        joined += signs
    return joined


METRICS_OF_CONTENT = _metrics([*_joined([SIGNS[name] for name in CONTENT]), REPEATS, *LABELS, *BETWEEN])
METRICS_OF_LOOK = _metrics([*_joined(list(LOOKS.values())), *ENCODING])
METRICS_OF_COPIES = _metrics(COPIES)


@dataclass
class RealSide:
    """The real images of a diagnosis, and what is computed from them once.

    Samples are compared with `reference`. The controls are made from `other` and compared with the same
    `reference`, so that the chance in it cancels. The class judges learn from `reference` and `unseen`, never
    from images that they judge.

    Attributes:
        train: the images that the first model was trained on; None = not known.
        known: content hashes of the reference images that were trained on, if they are so many that the
            reference says nothing about unseen images; else empty.
    """

    reference: Images
    other: Images
    train: Images | None
    unseen: Images | None
    extractors: Sequence[Extractor]
    statistics: Sequence[Extractor]
    classes: list[str] | None
    neighbours: int
    resamples: int
    seed: int
    known: frozenset[str] = frozenset()
    judges: dict[str, Judge] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._features: dict[tuple[str, int], tuple[np.ndarray, torch.Tensor]] = {}
        self._reencoded: dict[Key, Measured] = {}
        self._encoded: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.notes: dict[str, None] = {}  # what measures left out, each once
        if not self.judges:
            self._fit_judges()

    def _fit_judges(self) -> None:
        """Fit a class judge on each extractor, if all real images have labels of at least two classes."""
        parts = [self.reference] if self.unseen is None else [self.reference, self.unseen]
        labelled = [part.labels for part in parts if part.labels is not None]
        if len(labelled) < len(parts):
            return
        labels = np.concatenate(labelled)
        if len(np.unique(labels)) < 2:
            return
        assert self.classes is not None
        n_classes = len(self.classes)
        features = [torch.cat([self.features(each, part) for part in parts]) for each in self.extractors]
        fits = each_on_a_core(lambda x: Judge.fit(x, torch.from_numpy(labels), n_classes), features)
        self.judges |= {each.name: fit for each, fit in zip(self.extractors, fits, strict=True)}

    def features(self, extractor: Extractor, images: Images) -> torch.Tensor:
        """Features of `images`, computed once per set."""
        key = (extractor.name, id(images.pixels))
        if key not in self._features:
            # The pixels are kept with the features, because an id is unique only as long as its object
            # exists.
            self._features[key] = (images.pixels, extractor(torch.from_numpy(images.pixels)))
        return self._features[key][1]

    @cached_property
    def variance(self) -> dict[str, float]:
        """Total variance of the reference images, by extractor."""
        return {
            extractor.name: trace_of_covariance(self.features(extractor, self.reference))
            for extractor in self.extractors
        }

    def measure_content(
        self, images: Images, copies: bool = False, spaces: Collection[str] | None = None
    ) -> dict[Key, Measured]:
        """The measures of content of `images`.

        Args:
            copies: also near copies of training images.
            spaces: names of extractors; None = all.
        """
        chosen = [each for each in self.extractors if spaces is None or each.name in spaces]

        def measure(extractor: Extractor) -> dict[Key, Measured]:
            pair = Pair(
                self.features(extractor, self.reference),
                self.features(extractor, images),
                real_labels=_tensor(self.reference.labels),
                fake_labels=_tensor(images.labels),
                judge=self.judges.get(extractor.name),
                neighbours=self.neighbours,
            )
            measured = self._measure(extractor.name, pair, METRICS_OF_CONTENT)
            return measured | (self.measure_copies(extractor, pair.fake) if copies else {})

        measured: dict[Key, Measured] = {}
        for part in each_on_a_core(measure, chosen):
            measured |= part
        return measured

    @cached_property
    def not_trained_on(self) -> np.ndarray:
        """bool [n]: whether each reference image is not among the `known` training images."""
        return ~within(contents_of(self.reference.pixels), self.known)

    def measure_copies(self, extractor: Extractor, samples: torch.Tensor | None) -> dict[Key, Measured]:
        """Near copies of training images among `samples`.

        None = among the reference images that were not trained on: the control.
        """
        if self.train is None:
            return {}
        reference = self.features(extractor, self.reference)
        if self.known:
            if self.not_trained_on.sum() < LEAST:
                reason = "{} has no control: the reference images are training images"
                return {(extractor.name, name): reason.format(name) for name in METRICS_OF_COPIES}
            reference = reference[torch.from_numpy(self.not_trained_on)]
        pair = Pair(
            reference,
            reference if samples is None else samples,
            train=self.features(extractor, self.train),
            neighbours=self.neighbours,
        )
        return self._measure(extractor.name, pair, METRICS_OF_COPIES)

    def measure_look(self, images: Images, spaces: Collection[str] | None = None) -> dict[Key, Measured]:
        """The measures of the look of `images`, on the extractors of statistics; `spaces` as above."""
        measured: dict[Key, Measured] = {}
        for extractor in self.statistics:
            if spaces is not None and extractor.name not in spaces:
                continue
            pair = Pair(self.features(extractor, self.reference), self.features(extractor, images))
            own = [name for name in METRICS_OF_LOOK if METRICS[name].extractor == extractor.statistics]
            measured |= self._measure(extractor.name, pair, own)
        return measured

    def measure_all(self, images: Images) -> dict[Key, Measured]:
        """All measures of a set of samples."""
        return self.measure_content(images, copies=True) | self.measure_look(images)

    def measures_in_look(
        self, base: Images, samples: Images, looks: Sequence[str], spaces: Collection[str]
    ) -> dict[str, dict[Key, Measured]]:
        """The measures of content of `base` changed to look like `samples`, and to have their defects alone
        if they have some, by the name of the change.

        Args:
            looks: those of the samples.
            spaces: as above.
        """
        like = samples.pixels
        changed = {LOOK: in_look(base.pixels, like, looks)}
        if {*FEW_LEVELS, BLOCKED} & set(looks):
            changed[DEFECTS] = defective(base.pixels, like, looks)
        return {
            name: self.measure_content(replace(base, pixels=pixels), spaces=spaces)
            for name, pixels in changed.items()
        }

    def measure_levels_filtered(self, base: Images, samples: Images) -> dict[Key, Measured]:
        """The measures of few levels of `base`, filtered to the spectrum of `samples` and clipped.

        Sharpening drives pixels to black and white, and leaves few levels between.
        """
        filtered = self.measure_look(replace(base, pixels=matched(base.pixels, samples.pixels, levels=False)))
        few = {sign.metric for look in FEW_LEVELS for sign in LOOKS[look]}
        return {key: measured for key, measured in filtered.items() if key[1] in few}

    def measure_copies_in_look(self, samples: Images, looks: Sequence[str]) -> dict[Key, Measured]:
        """Near copies of training images among unseen reference images that look like `samples`.

        Blurred images are nearer to all others.
        """
        unseen = self.reference[self.not_trained_on]
        seen = replace(unseen, pixels=in_look(unseen.pixels, samples.pixels, looks))
        measured: dict[Key, Measured] = {}
        for extractor in self.extractors:
            measured |= self.measure_copies(extractor, self.features(extractor, seen))
        return measured

    def _measure(self, space: str, pair: Pair, metrics: Sequence[str]) -> dict[Key, Measured]:
        """Value and standard error of each measure, or the reason why it has none."""

        def resample(metric: type[PairMetric], pair: Pair) -> list[float]:
            return resampled(metric, pair, range(self.resamples), seed_of("diagnose", self.seed, metric.name))

        measured: dict[Key, Measured] = {}
        for name in metrics:
            try:
                measurement = take(METRICS[name], pair, resample)
            except MeasureError as reason:
                measured[space, name] = str(reason)
                continue
            measured[space, name] = measurement
            if measurement.note:
                self.notes[f"{name} ({space}): {measurement.note}"] = None
        return measured

    @cached_property
    def floor(self) -> dict[Key, Measured]:
        """The measures of other real images in place of samples."""
        measured = self.measure_content(self.other) | self.measure_look(self.other)
        for extractor in self.extractors:
            measured |= self.measure_copies(extractor, None)
        return measured

    def measure_reencoded(self, spaces: Collection[str]) -> dict[Key, Measured]:
        """The measures of other real images saved as JPEG, in `spaces`, each computed once."""
        missing = set(spaces) - {space for space, _ in self._reencoded}
        if missing:
            encoded = self.encoded(self.other)
            self._reencoded |= self.measure_content(encoded, spaces=missing)
            self._reencoded |= self.measure_look(encoded, missing)
        return {key: measured for key, measured in self._reencoded.items() if key[0] in spaces}

    def encoded(self, part: Images) -> Images:
        """`part` saved as JPEG and read again, once per set."""
        key = id(part.pixels)
        if key not in self._encoded:
            self._encoded[key] = (part.pixels, reencoded(part.pixels))
        return replace(part, pixels=self._encoded[key][1])

    def with_other(self, other: Images) -> RealSide:
        """The same with another set of the same images or labels in place of `other`."""
        part = replace(self, other=other)
        part._features, part._encoded = self._features, self._encoded
        return part

    def only(self, kept: np.ndarray, n: int) -> RealSide:
        """The same with at most n images of the classes `kept` alone."""
        part = replace(
            self,
            reference=self.cut(self.reference, self.reference.of(kept), n),
            other=self.cut(self.other, self.other.of(kept), n),
        )
        part._features = self._features
        return part

    def cut(self, images: Images, chosen: np.ndarray, n: int) -> Images:
        """The first n chosen images; features that are known are not computed again.

        Args:
            chosen: bool [number of images].
        """
        part = images[np.flatnonzero(chosen)[:n]]
        for (name, of), (_, features) in list(self._features.items()):
            if of == id(images.pixels):
                rows = torch.from_numpy(np.flatnonzero(chosen)[:n]).to(features.device)
                self._features[name, id(part.pixels)] = (part.pixels, features[rows])
        return part


def readings_of(
    real: RealSide,
    samples: dict[Key, Measured],
    controls: dict[str, dict[Key, Measured]],
    n: int,
) -> tuple[dict[str, list[Reading]], dict[str, str]]:
    """The readings of `n` samples by definition, and by measure the reason why it was left out."""
    groups = SIGNS | {"repeats": (REPEATS,), "copies": COPIES, "encoding": ENCODING}
    groups |= {"labels": LABELS, "between classes": BETWEEN}
    groups |= {f"look: {name}": signs for name, signs in LOOKS.items()}
    readings: dict[str, list[Reading]] = {}
    left_out: dict[str, str] = {}
    for name, signs in groups.items():
        readings[name] = []
        for sign in signs:
            for space, metric in samples:
                if metric == sign.metric:
                    reading = _reading(real, sign, space, samples, controls, n)
                    if isinstance(reading, str):
                        left_out[metric] = reading
                    else:
                        readings[name].append(reading)
    return readings, left_out


def _reading(
    real: RealSide,
    sign: Sign,
    space: str,
    samples: dict[Key, Measured],
    controls: dict[str, dict[Key, Measured]],
    n: int,
) -> Reading | str:
    """The reading of a measure on one extractor, or the reason why there is none."""
    key = (space, sign.metric)
    sample, floor = samples[key], controls["real images"].get(key, "not taken between real images")
    if isinstance(sample, str):
        return sample
    if isinstance(floor, str):
        return f"{sign.metric} has no value between real images: {floor}"
    controls_with_value, differences = {}, {}
    for name, measured in controls.items():
        control = measured.get(key)
        if isinstance(control, Measurement) and (sign.in_look or not name.endswith((LOOK, DEFECTS))):
            controls_with_value[name] = (control.value, control.error)
            differences[name] = error_of_difference(sample, control)
    unit = 1.0
    if sign.of == "floor":
        unit = abs(floor.value)
    elif sign.of == "variance":
        unit = real.variance.get(space, 1.0)
    return Reading(sign, sample.value, sample.error, controls_with_value, unit, n, space, differences)


def _tensor(labels: np.ndarray | None) -> torch.Tensor | None:
    return None if labels is None else torch.from_numpy(labels)
