"""Select a part of a source: a long tail of class sizes (data.tail), a number of images (data.limit)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from difflab.core.errors import DataError
from difflab.core.seeds import numpy_generator
from difflab.data.source import Source


@dataclass(frozen=True)
class _Subset:
    base: Callable[[int], Any]
    kept: np.ndarray

    def __call__(self, index: int) -> Any:
        return self.base(int(self.kept[index]))


def subset(source: Source, kept: np.ndarray) -> Source:
    """The images at positions `kept`, int64 [M], as a source.

    Every class must keep an image. `zipf` and `limited` guarantee this.
    """
    return replace(
        source,
        labels=None if source.labels is None else source.labels[kept],
        prompts=None if source.prompts is None else [source.prompts[i] for i in kept],
        groups=None if source.groups is None else source.groups[kept],
        attributes={name: [values[i] for i in kept] for name, values in source.attributes.items()},
        keys=[source.keys[i] for i in kept],
        bucket=None if source.bucket is None else source.bucket[kept],
        weights=None if source.weights is None else source.weights[kept],
        read=_Subset(source.read, kept),
        declare=None if source.declare is None else _Subset(source.declare, kept),
        original=None if source.original is None else _Subset(source.original, kept),
    )


def zipf(source: Source, exponent: float, seed: int) -> np.ndarray:
    """Positions to keep so that class sizes follow Zipf's law: int64 [M].

    Classes are ranked by size. The class of rank r keeps round(n_max r^-exponent) images, where n_max is the
    size of the largest class. It keeps at least 2 images and at most all. Raises DataError without labels.
    """
    if source.labels is None or source.classes is None:
        raise DataError(
            f"data.tail.kind=zipf needs classes, but data.source={source.name} has no labels; use "
            "data.tail.kind=none"
        )
    counts = np.bincount(source.labels, minlength=len(source.classes))
    ranked = np.argsort(-counts, kind="stable")  # by falling size, then by index
    sizes = np.empty_like(counts)
    for rank, label in enumerate(ranked, 1):
        sizes[label] = min(counts[label], max(2, round(float(counts[ranked[0]]) * rank**-exponent)))
    return _draw(source.labels, sizes, "tail", seed)


def limited(source: Source, limit: int, seed: int) -> np.ndarray:
    """`limit` random positions in ascending order, int64.

    With labels, every class is reduced by the same factor, but keeps at least 2 images if it has them. Raises
    DataError if `limit` is too small for this.
    """
    if source.labels is None or source.classes is None:
        return np.sort(numpy_generator("limit", seed).permutation(len(source))[:limit])
    counts = np.bincount(source.labels, minlength=len(source.classes))
    least = np.minimum(counts, 2)
    if least.sum() > limit:
        raise DataError(
            f"data.limit={limit} gives some of the {len(counts)} classes fewer than 2 images; use at least "
            f"data.limit={least.sum()}"
        )
    return _draw(source.labels, apportion(counts, limit, least), "limit", seed)


def apportion(counts: np.ndarray, total: int, least: np.ndarray) -> np.ndarray:
    """Apportion `total` in proportion to `counts`, by the largest remainders: int64 [C] with the sum `total`.

    Each result is between `least` and `counts`.
    """
    exact = counts * (total / counts.sum())
    sizes = np.maximum(np.floor(exact).astype(np.int64), least)
    while sizes.sum() != total:  # at most C steps in either direction
        up = sizes.sum() < total
        allowed = sizes < counts if up else sizes > least
        need = np.where(allowed, exact - sizes if up else sizes - exact, -np.inf)
        sizes[int(np.argmax(need))] += 1 if up else -1
    return sizes


def _draw(labels: np.ndarray, sizes: np.ndarray, purpose: str, seed: int) -> np.ndarray:
    """sizes[c] random positions of every class c, ascending. Each class has its own random stream."""
    kept = [
        numpy_generator(purpose, seed, label).permutation(np.flatnonzero(labels == label))[:size]
        for label, size in enumerate(sizes.tolist())
    ]
    return np.sort(np.concatenate(kept))
