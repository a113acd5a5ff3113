"""Two feature sets, real and fake, and what several measures derive from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.concept_set import Concepts
from difflab.metrics.distances import distance_blocks, squared_distances
from difflab.metrics.judge import Judge

T = TypeVar("T")
HELD = 2**31
"""Largest matrix of distances, in bytes, that is kept for the resamples.

A larger one is recomputed in blocks each time.
"""
Rows = Tensor | slice
"""Rows of one side: int64 indices without duplicates, or ``slice(None)`` for all of them."""


class Pair:
    """Two feature sets and everything that several measures derive from them, each computed once, at first
    use.

    Args:
        real: features of real images [n_r, d], finite.
        fake: features of samples [n_f, d], finite, from the same extractor.
        real_labels: int64 [n_r], the class of each real image; None = unlabelled.
        fake_labels: int64 [n_f], the class that each sample was conditioned on; None = unconditional.
        judge: the class judge that reads these features; None = no class measures.
        neighbours: k of precision, recall, density and coverage.
        concepts: the texts that the concept measures compare with. Labels are then positions in
            `concepts.names`.
        train: features of the images that the model was trained on [n_t, d], finite; None = no memorisation
            measures.

    The cached matrices take 4 bytes per entry: n_r*n_f for `rf`, n_r^2 for `rr`, n_f^2 for `ff`. Measures
    that read them only through `distances` do without the matrix where it would take more than `HELD` bytes.
    Raises MeasureError where the sets cannot be compared.

    >>> Pair(torch.zeros(3, 2), torch.ones(4, 2)).rf.shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_labels: Tensor | None = None,
        fake_labels: Tensor | None = None,
        judge: Judge | None = None,
        neighbours: int = 5,
        concepts: Concepts | None = None,
        train: Tensor | None = None,
    ) -> None:
        sides = {"real": real, "fake": fake}
        if train is not None:
            sides["train"] = train
        for side, features in sides.items():
            _check_features(side, features, real)
        if neighbours < 1:
            raise MeasureError(f"neighbours is {neighbours}; a k-nearest-neighbour measure needs at least 1")
        self.real, self.fake = real, fake
        self.real_labels = checked_labels("real", real_labels, len(real))
        self.fake_labels = checked_labels("fake", fake_labels, len(fake))
        self.judge = judge
        self.neighbours = neighbours
        self.concepts = concepts
        self._train = train
        self._once: dict[Callable[[Pair], Any], Any] = {}

    def once(self, derive: Callable[[Pair], T]) -> T:
        """``derive(self)``, computed at the first call and kept: a cache of what the resamples of a measure
        share.
        """
        if derive not in self._once:
            self._once[derive] = derive(self)
        return self._once[derive]

    @cached_property
    def rr(self) -> Tensor:
        """Squared distances between real images, float32 [n_r, n_r]."""
        return squared_distances(self.real, self.real)

    @cached_property
    def rf(self) -> Tensor:
        """Squared distances from real images to samples, float32 [n_r, n_f]."""
        return squared_distances(self.real, self.fake)

    @cached_property
    def ff(self) -> Tensor:
        """Squared distances between samples, float32 [n_f, n_f]."""
        return squared_distances(self.fake, self.fake)

    def distances(self, rows: Rows, columns: Rows, sides: str = "rf", block: int = 1024) -> Iterator[Tensor]:
        """Squared distances from `rows` of the first side to `columns` of the second, in blocks of rows, in
        order.

        `sides` is 'rf', 'rr' or 'ff'. Yields float32 [at most block, len(columns)], to be read only. The
        blocks come from the cached matrix, or are computed anew where that would take more than `HELD` bytes.
        """
        x, y = (self.real if side == "r" else self.fake for side in sides)
        if 4 * len(x) * len(y) > HELD:
            yield from distance_blocks(x[rows], y[columns], block)
            return
        for part in getattr(self, sides)[rows].split(block):
            yield part if isinstance(columns, slice) else part.index_select(1, columns)

    @cached_property
    def judged_real(self) -> Tensor:
        """The class that the judge predicts for each real image, int64 [n_r]."""
        return self.judge_of.predict(self.real)

    @cached_property
    def judged_fake(self) -> Tensor:
        """The class that the judge predicts for each sample, int64 [n_f]."""
        return self.judge_of.predict(self.fake)

    @cached_property
    def directed(self) -> dict[str, Tensor]:
        """Which rows of 'real' and 'fake' have a direction, bool [n]: those whose length is neither 0 nor
        infinite.
        """
        lengths = {
            side: torch.linalg.vector_norm(getattr(self, side), dim=1, dtype=torch.float64)
            for side in ("real", "fake")
        }
        return {side: (length > 0) & torch.isfinite(length) for side, length in lengths.items()}

    @property
    def train(self) -> Tensor:
        """Features of the training images [n_t, d], n_t >= 1.

        Raises MeasureError where the pair was made without them.
        """
        if self._train is None or not len(self._train):
            raise MeasureError(
                "memorisation measures compare samples with the images the model was trained on: give "
                "Pair(..., train=features)"
            )
        return self._train

    @property
    def judge_of(self) -> Judge:
        """The class judge. Raises MeasureError where the pair was made without one."""
        if self.judge is None:
            raise MeasureError(
                "class measures need a judge; fit one with Judge.fit(train features, train labels, "
                "n_classes) on labelled real images"
            )
        return self.judge


def _check_features(side: str, features: Tensor, real: Tensor) -> None:
    if features.ndim != 2 or not features.is_floating_point():
        raise MeasureError(
            f"{side} features have shape {tuple(features.shape)} and type {features.dtype}; a measure needs "
            "floats [n, d]"
        )
    bad = ~torch.isfinite(features).all(1)
    if bad.any():
        raise MeasureError(
            f"{int(bad.sum())} of {len(features)} {side} rows hold NaN or infinity (first: row "
            f"{int(bad.nonzero()[0])}); look at those images and drop or remake them before measuring"
        )
    if features.shape[1] != real.shape[1]:
        raise MeasureError(
            f"real features have {real.shape[1]} dimensions, {side} ones {features.shape[1]}: take both "
            "with one extractor"
        )


def checked_labels(side: str, labels: Tensor | None, n: int) -> Tensor | None:
    """`labels` as int64 [n]. Raises MeasureError unless they are integers >= 0, one per image."""
    if labels is None:
        return None
    if labels.shape != (n,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise MeasureError(
            f"{side} labels have shape {tuple(labels.shape)} and type {labels.dtype}; {n} images need "
            f"integers [{n}]"
        )
    if n and int(labels.min()) < 0:
        raise MeasureError(
            f"{side} labels hold {int(labels.min())}; classes count from 0, and unlabelled means no labels "
            "at all"
        )
    return labels.long()
