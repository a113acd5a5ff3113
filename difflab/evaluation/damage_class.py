"""Simulated damages to one class only, which averages over all classes hide.

The class is drawn from the seed among the classes with enough images, see `struck_class`. It is the same for
all of these kinds and degrees.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from difflab.core.errors import DataError
from difflab.core.seeds import numpy_generator
from difflab.evaluation.damage import Damage, Labelled, Pool, kind
from difflab.evaluation.damage_content import repeated
from difflab.evaluation.damage_look import blurred

ENOUGH = 20
"""Images that the damaged class has among the images drawn, on average."""


def struck_class(labels: np.ndarray, count: int, seed: int = 0) -> int | None:
    """The class that a damage to one class changes.

    Args:
        labels: classes of the images to draw from, int64 [n].
        count: images that are drawn.
        seed: of `simulate`.

    Returns None if no class has `ENOUGH` of `count` images on average, or if there is only one class.

    >>> struck_class(np.array([3] * 10 + [7]), count=100)
    3
    """
    classes, counts = np.unique(labels, return_counts=True)
    large = classes[counts * count >= ENOUGH * len(labels)]
    if len(classes) < 2 or not len(large):
        return None
    return int(numpy_generator("struck class", seed).choice(large))


@kind("one class")
def one_class_blurred(pool: Pool) -> Labelled:
    """One class is blurred, as by `blurred`."""
    return _in_one_class(pool, "one_class_blurred", blurred)


@kind("one class")
def one_class_repeated(pool: Pool) -> Labelled:
    """One class repeats few images, as by `repeated`."""
    return _in_one_class(pool, "one_class_repeated", repeated)


@kind("one class")
def one_class_narrowed(pool: Pool) -> Labelled:
    """One class keeps its densest mode: an image and those nearest to it in pixels, a quarter at degree 1."""

    def narrowed(members: Pool) -> Labelled:
        n_kept = max(1, round(len(members.images) * (1 - 0.75 * members.degree)))
        flat = members.images.reshape(len(members.images), -1).astype(np.float32)
        squares = np.square(flat).sum(1)
        distances = squares[:, None] + squares - 2 * flat @ flat.T
        centre = np.sort(distances, axis=1)[:, n_kept - 1].argmin()
        distance = distances[centre]
        rows = members.draw(np.argsort(distance, kind="stable")[:n_kept])
        return members.images[rows], members.labels[rows]

    return _in_one_class(pool, "one_class_narrowed", narrowed)


@kind("one class")
def one_class_replaced(pool: Pool) -> Labelled:
    """A share `degree` of the images of one class show one other class."""

    def replaced(members: Pool) -> Labelled:
        images, labels = members.unchanged()
        images = images.copy()
        other = members.rng.choice(np.setdiff1d(pool.labels, labels))
        rows = members.draw(np.flatnonzero(pool.labels == other), round(members.degree * len(images)))
        images[: len(rows)] = pool.images[rows]
        return images, labels

    return _in_one_class(pool, "one_class_replaced", replaced)


def _in_one_class(pool: Pool, name: str, damage: Damage) -> Labelled:
    """Unchanged images, but `damage` done to those of the struck class.

    Raises DataError that names the kind `name`, if no class is large enough.
    """
    if pool.struck is None:
        raise DataError(
            f"{name} needs two classes, and {ENOUGH} images of one of them among {pool.count}; give a larger "
            "count"
        )
    images, labels = pool.unchanged()
    images, members = images.copy(), np.flatnonzero(labels == pool.struck)
    of_class = pool.labels == pool.struck
    part = replace(pool, images=pool.images[of_class], labels=pool.labels[of_class], count=len(members))
    images[members] = damage(part)[0]
    return images, labels
