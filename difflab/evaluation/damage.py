"""What every simulated damage needs: the images to draw from, the registry of kinds, and helpers.

A kind is one function under ``@kind(topic)``. It takes a `Pool` and returns changed images and their labels.
Two kinds can be mixed if their topics are different and both are in `ORDER`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from difflab.core.errors import DataError

Labelled = tuple[np.ndarray, np.ndarray]
"""Images uint8 [n, H, W, C] and the class that each was asked for, int64 [n]."""


@dataclass(frozen=True)
class Pool:
    """Real images to draw from.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: their classes, int64 [N].
        degree: of the change, in (0, 1].
        count: images to return.
        rng: all randomness.
        train: images that a model was trained on, and their classes; needed by `copied`.
        reference: images that samples are compared with, and their classes; needed by `overlapping`.
        struck: the class that a damage to one class changes; None = no class is large enough.
    """

    images: np.ndarray
    labels: np.ndarray
    degree: float
    count: int
    rng: np.random.Generator
    train: Labelled | None = None
    reference: Labelled | None = None
    struck: int | None = None

    def draw(self, rows: np.ndarray | None = None, count: int | None = None) -> np.ndarray:
        """Positions of `count` different images among `rows`. Raises DataError if there are fewer.

        Args:
            count: None = `self.count`.
            rows: None = all.
        """
        rows = np.arange(len(self.images)) if rows is None else rows
        count = self.count if count is None else count
        if len(rows) < count:
            raise DataError(
                f"{len(rows)} images are left to draw {count} from; give more images, a smaller count or a "
                "smaller degree"
            )
        return self.rng.permutation(rows)[:count]

    def unchanged(self) -> Labelled:
        """`count` different images and their classes."""
        rows = self.draw()
        return self.images[rows], self.labels[rows]

    def classes(self, name: str) -> Labelled:
        """The classes and their numbers of images.

        Raises DataError that names the kind `name`, for fewer than two classes.
        """
        classes, counts = np.unique(self.labels, return_counts=True)
        if len(classes) < 2:
            raise DataError(f"{name} needs at least 2 classes")
        return classes, counts


Damage = Callable[[Pool], Labelled]

KINDS: dict[str, Damage] = {}
"""Every kind of damage by its name."""
TOPICS: dict[str, str] = {}
"""What each kind changes."""
ORDER = ("variety", "concepts", "labels", "detail", "colour", "blocks", "levels")
"""The topics that can be mixed, in the order in which their damages are applied.

The images are chosen first. Labels come after concepts, which read the true classes.
"""


def kind(topic: str) -> Callable[[Damage], Damage]:
    """Register a kind of damage under the name of its function.

    Args:
        topic: what it changes. Kinds of topics outside `ORDER` cannot be mixed.
    """

    def register(function: Damage) -> Damage:
        KINDS[function.__name__] = function
        TOPICS[function.__name__] = topic
        return function

    return register


def blend(images: np.ndarray, others: np.ndarray, share: float) -> np.ndarray:
    """A `share` of the way from images to others, rounded. A negative share leads away from them."""
    return rounded(images * (1 - share) + others * share)


def rounded(values: np.ndarray) -> np.ndarray:
    """Grey levels as uint8, rounded and clipped."""
    return values.round().clip(0, 255).astype(np.uint8)


def noisy(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`images` with independent noise of -1, 0 or 1 grey levels."""
    noise = rng.integers(-1, 2, images.shape)
    return (images.astype(np.int16) + noise).clip(0, 255).astype(np.uint8)


def each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """`images` with `change` applied to each as a PIL image."""
    changed = []
    for image in images:
        pixels = image.squeeze(2) if image.shape[2] == 1 else image
        changed.append(np.asarray(change(Image.fromarray(pixels))))
    return np.stack(changed).reshape(images.shape)


def jpeg(image: Image.Image, quality: int, **options: Any) -> Image.Image:
    """`image` saved as JPEG and read again."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, **options)
    return Image.open(file)


def at_least(pool: Pool, side: int, name: str) -> None:
    """Raise DataError if the images have less than `side` pixels a side."""
    smallest = min(pool.images.shape[1:3])
    if smallest < side:
        raise DataError(f"{name} needs images of at least {side} pixels a side, these have {smallest}")
