"""Take many measures of the same image sets: one row each, with n, floor, 95% interval and the reason where
one is missing.

    real, second_real, samples = (Side(features) for features in ...)
    sets = ComparedSets(real, samples, second_real, identity="my photographs")
    rows = measured(extractor, sets, MeasureSettings(["fd", "recall"], resample=...))

A run, `difflab.compare` and `difflab.Monitor` all take their measures here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.hashing import digest
from difflab.core.rows import Row, row
from difflab.features.extractor import Extractor
from difflab.metrics.concept_set import Concepts
from difflab.metrics.judge import Judge
from difflab.metrics.measurement import Resample, take
from difflab.metrics.metric import METRICS, PairMetric
from difflab.metrics.pair import Pair
from difflab.metrics.row_name import row_name


@dataclass(frozen=True)
class Side:
    """Features [n, d] of one set of images, with labels int64 [n] where it has any."""

    features: Tensor
    labels: Tensor | None = None

    def __getitem__(self, rows: slice) -> Side:
        return Side(self.features[rows], None if self.labels is None else self.labels[rows])

    def finite(self, name: str) -> tuple[Side, list[str]]:
        """The rows whose features are all finite, and a sentence about the number of others, if there are
        any.
        """
        known = torch.isfinite(self.features).all(1)
        if known.all():
            return self, []
        note = (
            f"{int((~known).sum())} of {len(known)} {name} have features that are no finite numbers, and "
            "are left out"
        )
        return Side(self.features[known], None if self.labels is None else self.labels[known]), [note]


@dataclass(frozen=True)
class ComparedSets:
    """The image sets of a comparison, as features of one extractor."""

    real: Side
    """The reference."""
    fake: Side
    """The samples."""
    second_real: Side | None = None
    """Real images that are in neither set, for the floor; None = no floor."""
    train: Tensor | None = None
    """Features of the images that the model was trained on, for the memorisation measures.

    Their floor has `real` as samples.
    """
    identity: str = ""
    """Hash of the real set. It becomes part of the recipe of every row."""

    def finite(self) -> tuple[ComparedSets, list[str]]:
        """The sets without rows that are not finite, and a sentence for each set that lost some."""
        (real, notes), (fake, notes_fake) = self.real.finite("real images"), self.fake.finite("samples")
        notes = [*notes, *notes_fake]
        train, second_real = self.train, self.second_real
        if train is not None:
            trained, notes_train = Side(train).finite("training images")
            train, notes = trained.features, [*notes, *notes_train]
        if second_real is not None:
            second_real, notes_second = second_real.finite("real images of the floor")
            notes += notes_second
        return ComparedSets(real, fake, second_real, train, self.identity), notes


@dataclass(frozen=True)
class MeasureSettings:
    """Which measures are taken, and how."""

    metrics: Sequence[str]
    """Names in METRICS.

    Those that do not belong on the extractor are skipped: measures of its statistics on others, and others
    there.
    """
    resample: Resample | None
    """(metric, pair) -> half-samples, for measures without influences; None = no intervals."""
    neighbours: int = 5
    """k of the nearest-neighbour measures."""
    judge: Judge | None = None
    """For the class measures, which have no value without it; for the detector measures the probe."""
    no_judge: str | None = None
    """Why there is no judge."""
    concepts: Concepts | None = None
    """For the concept measures, which have no value without them."""
    generation: int = 0
    """The generation that the rows belong to."""
    advance: Callable[[int], None] = lambda n: None
    """Called with 1 after each measure."""


def measured(extractor: Extractor, sets: ComparedSets, settings: MeasureSettings) -> list[Row]:
    """Rows of `settings.metrics`, in order: samples against real images, and as the floor two sets of real
    images.

    A row has a value, or a reason why it has none. With a value the reason says which images were left out,
    or why there is no floor.
    """
    sets, notes = sets.finite()
    pairs = _Pairs.of(sets, settings)
    rows = []
    for name in settings.metrics:
        if METRICS[name].extractor == extractor.statistics:
            rows.append(_row(METRICS[name], extractor, sets, pairs, settings, notes))
            settings.advance(1)
    return rows


@dataclass(frozen=True)
class _Pairs:
    """What the measures compare: `samples` with real images; for the floor, `floor` real images or `unseen`
    ones.
    """

    samples: Pair
    floor: Pair | None
    unseen: Pair

    @classmethod
    def of(cls, sets: ComparedSets, settings: MeasureSettings) -> _Pairs:
        shared: dict[str, Any] = {
            "judge": settings.judge,
            "concepts": settings.concepts,
            "neighbours": settings.neighbours,
        }
        real, fake, second = sets.real, sets.fake, sets.second_real
        samples = Pair(
            real.features,
            fake.features,
            real_labels=real.labels,
            fake_labels=fake.labels,
            train=sets.train,
            **shared,
        )
        floor = None
        if second is not None:
            floor = Pair(
                second.features,
                real.features,
                real_labels=second.labels,
                fake_labels=real.labels,
                train=sets.train,
                **shared,
            )
        unseen = Pair(real.features, real.features, train=sets.train, neighbours=settings.neighbours)
        return cls(samples, floor, unseen)

    def floor_of(self, metric: type[PairMetric]) -> tuple[float | None, str | None]:
        """The floor and what it leaves out, or None and why (captions of real images need not repeat, for
        example).
        """
        pair = self.unseen if metric.needs in ("train", "own") else self.floor
        if pair is None:
            return None, None
        try:
            value, note = metric.of(pair), metric.note(pair)
        except MeasureError as error:
            return None, f"its floor: {error}"
        return value, note and f"its floor: {note}"


def _row(
    metric: type[PairMetric],
    extractor: Extractor,
    sets: ComparedSets,
    pairs: _Pairs,
    settings: MeasureSettings,
    notes: Sequence[str],
) -> Row:
    value, ci, floor = None, None, None
    reasons: list[str | None]
    try:
        if metric.needs in ("judge", "detector") and settings.no_judge:
            raise MeasureError(f"{metric.name} has no value: {settings.no_judge}")
        measurement = take(metric, pairs.samples, settings.resample)
        floor, floor_note = pairs.floor_of(metric)
        ci = measurement.interval
        value = measurement.value
        reasons = [measurement.note, *notes, floor_note]
    except MeasureError as error:
        ci, floor = None, None
        reasons = [str(error), *notes]
    return row(
        settings.generation,
        row_name(metric.name, extractor.name),
        extractor.name,
        value,
        ci,
        len(sets.fake.features),
        floor,
        digest(_recipe(metric, extractor, sets, settings)),
        "; ".join(filter(None, reasons)) or None,
    )


def _recipe(
    metric: type[PairMetric], extractor: Extractor, sets: ComparedSets, settings: MeasureSettings
) -> dict[str, Any]:
    """Everything that makes two numbers comparable."""
    recipe: dict[str, Any] = {
        "measure": metric.name,
        "extractor": extractor.recipe,
        "n": len(sets.fake.features),
        "neighbours": settings.neighbours,
        "real": sets.identity,
    }
    if metric.needs in ("judge", "detector"):
        recipe["judge"] = settings.judge.recipe if settings.judge else None
    if metric.needs == "concepts":
        recipe["concepts"] = settings.concepts.recipe if settings.concepts else None
    # The training set of `own` measures differs between generations and is left out.
    if metric.needs in ("train", "detector"):
        recipe["train"] = 0 if sets.train is None else len(sets.train)
    return recipe


def left_out(reasons: Mapping[str, str]) -> list[str]:
    """Measures without a value and why. Measures with the same reason share a line.

    >>> reasons = {"recall (pixels)": "recall needs 6 images", "ct": "ct has no value: all are one"}
    >>> left_out(reasons | {"kid": "kid needs 6 images"})
    ['recall (pixels), kid: needs 6 images', 'ct: all are one']
    """
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        bare = name.partition(" (")[0]
        reason = reason.removeprefix(f"{bare} has no value: ").removeprefix(f"{bare} ")
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(group)}: {reason}" for reason, group in names.items()]
