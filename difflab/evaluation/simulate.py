"""Simulated collapse: real images changed in a known way and degree, to test measures and diagnoses on.

    changed = simulate("tails_cut", images, labels, degree=0.5, count=300, seed=0)

A new kind of change is one function under ``@kind``. A diagnosis must not raise an alarm for the kinds in
`HARMLESS`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from difflab.core.errors import DataError
from difflab.core.seeds import numpy_generator


@dataclass(frozen=True)
class Pool:
    """Real images to draw from.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: their classes, int64 [N].
        degree: of the change, in (0, 1].
        count: images to return.
        rng: all randomness.
        train: images that a model was trained on, uint8 [M, H, W, C], and their classes; needed by `copied`.
    """

    images: np.ndarray
    labels: np.ndarray
    degree: float
    count: int
    rng: np.random.Generator
    train: tuple[np.ndarray, np.ndarray] | None = None

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


Changed = tuple[np.ndarray, np.ndarray]
"""Images uint8 [n, H, W, C] and the class that each was asked for, int64 [n]."""

KINDS: dict[str, Callable[[Pool], Changed]] = {}
HARMLESS = ("nothing", "fewer", "reencoded")
LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the brightness."""


def kind(function: Callable[[Pool], Changed]) -> Callable[[Pool], Changed]:
    """Register a kind of change under the name of its function."""
    KINDS[function.__name__] = function
    return function


def simulate(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    degree: float,
    count: int,
    seed: int = 0,
    train: tuple[np.ndarray, np.ndarray] | None = None,
) -> Changed:
    """Draw `count` real images and change them in the way `name`. The result depends on the arguments alone.

    Args:
        name: the kind of change.
        images, labels: real images uint8 [n, H, W, C] to draw from, and their classes int64 [n].
        degree: of the change, in (0, 1].
        count: number of images; `fewer` returns fewer.
        seed: of all randomness.
        train: images that a model was trained on, with their classes; needed by `copied`.

    Returns images and the classes they were asked for. Raises DataError for an unknown name, a degree outside
    (0, 1], too few images, or arrays of other shapes.

    >>> images, labels = np.zeros((6, 8, 8, 3), np.uint8), np.array([0, 0, 0, 1, 1, 1])
    >>> [part.shape for part in simulate("nothing", images, labels, 0.5, count=4)]
    [(4, 8, 8, 3), (4,)]
    """
    if name not in KINDS:
        raise DataError(f"there is no simulated change '{name}'; known: {', '.join(KINDS)}")
    if not 0 < degree <= 1:
        raise DataError(f"degree is {degree}; it has to be above 0 and at most 1")
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != (len(images),):
        raise DataError(
            "simulate needs uint8 images [n, H, W, C] and labels [n], "
            f"got {images.dtype} {images.shape} and {labels.shape}"
        )
    return KINDS[name](Pool(images, labels, degree, count, numpy_generator("simulate", name, seed), train))


# --------------------------------------------------------------------------------------------------- harmless
@kind
def nothing(pool: Pool) -> Changed:
    """Other real images, unchanged."""
    rows = pool.draw()
    return pool.images[rows], pool.labels[rows]


@kind
def fewer(pool: Pool) -> Changed:
    """Fewer images, unchanged; at degree 1 a quarter of them."""
    rows = pool.draw(count=max(2, round(pool.count * (1 - 0.75 * pool.degree))))
    return pool.images[rows], pool.labels[rows]


@kind
def reencoded(pool: Pool) -> Changed:
    """Images saved as JPEG, of quality 95 down to 75 at degree 1, without colour subsampling."""
    images, labels = nothing(pool)

    def reencode(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=round(95 - 20 * pool.degree), subsampling=0)
        return Image.open(file)

    return _each(images, reencode), labels


# -------------------------------------------------------------------------------------------- variety is lost
@kind
def tails_cut(pool: Pool) -> Changed:
    """The images of each class far from its mean are removed, three quarters at degree 1 (early collapse)."""
    flat = pool.images.reshape(len(pool.images), -1).astype(np.float32)
    kept = []
    for label in np.unique(pool.labels):
        rows = np.flatnonzero(pool.labels == label)
        distance = np.square(flat[rows] - flat[rows].mean(0)).sum(1)
        n_kept = max(1, round(len(rows) * (1 - 0.75 * pool.degree)))
        kept.append(rows[np.argsort(distance, kind="stable")][:n_kept])
    rows = pool.draw(np.concatenate(kept))
    return pool.images[rows], pool.labels[rows]


@kind
def shrunk(pool: Pool) -> Changed:
    """Images move towards the mean of their class, four fifths of the way at degree 1 (lost variance)."""
    images, labels = nothing(pool)
    means = {label: pool.images[pool.labels == label].mean(0) for label in np.unique(labels)}
    return _blend(images, np.stack([means[label] for label in labels]), 0.8 * pool.degree), labels


@kind
def repeated(pool: Pool) -> Changed:
    """Only n^(1 - degree) of n images are different.

    The others are copies with noise of one grey level (catastrophic collapse).
    """
    distinct = pool.draw(count=max(1, round(pool.count ** (1 - pool.degree))))
    rows = distinct[pool.rng.integers(0, len(distinct), pool.count)]
    noise = pool.rng.integers(-1, 2, (pool.count, *pool.images.shape[1:]))
    images = pool.images[rows].astype(np.int16) + noise
    return images.clip(0, 255).astype(np.uint8), pool.labels[rows]


@kind
def dropped(pool: Pool) -> Changed:
    """Whole classes are removed, the rarest first, three quarters of them at degree 1 (forgetting)."""
    classes, counts = _classes(pool, "dropped")
    n_removed = max(1, round(0.75 * pool.degree * len(classes)))
    removed = classes[np.argsort(counts, kind="stable")][:n_removed]
    rows = pool.draw(np.flatnonzero(~np.isin(pool.labels, removed)))
    return pool.images[rows], pool.labels[rows]


# ----------------------------------------------------------------------------------------- concepts are mixed
@kind
def blended(pool: Pool) -> Changed:
    """Every class is blended with images of one other class, half and half at degree 1 (late collapse)."""
    images, labels = nothing(pool)
    classes = pool.rng.permutation(_classes(pool, "blended")[0])
    partner = dict(zip(classes, np.roll(classes, 1), strict=True))
    others = [pool.images[pool.rng.choice(np.flatnonzero(pool.labels == partner[label]))] for label in labels]
    return _blend(images, np.stack(others), 0.5 * pool.degree), labels


@kind
def swapped(pool: Pool) -> Changed:
    """A share `degree` of the images has the label of another class (poisoned labels)."""
    images, labels = nothing(pool)
    classes, _ = _classes(pool, "swapped")
    wrong = pool.rng.permutation(len(labels))[: round(pool.degree * len(labels))]
    number = np.searchsorted(classes, labels)
    shift = pool.rng.integers(1, len(classes), len(wrong))
    number[wrong] = (number[wrong] + shift) % len(classes)
    return images, classes[number]


# ----------------------------------------------------------------------------------------------- looks change
@kind
def blurred(pool: Pool) -> Changed:
    """A Gaussian blur with a radius of a tenth of the width at degree 1 (loss of detail)."""
    images, labels = nothing(pool)

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(0.1 * pool.degree * image.width))

    return _each(images, blur), labels


@kind
def sharpened(pool: Pool) -> Changed:
    """An unsharp mask of 400 percent at degree 1."""
    images, labels = nothing(pool)

    def sharpen(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.UnsharpMask(1, round(400 * pool.degree), 0))

    return _each(images, sharpen), labels


@kind
def saturated(pool: Pool) -> Changed:
    """Colours three times as far from grey at degree 1. Raises DataError for grey images."""
    images, labels = nothing(pool)
    if images.shape[3] != 3:
        raise DataError("saturated needs colour images")
    grey = np.repeat((images @ LUMA)[..., None], 3, axis=3)
    return _blend(images, grey, -2 * pool.degree), labels


# ----------------------------------------------------------------------------------------------- memorisation
@kind
def copied(pool: Pool) -> Changed:
    """A share `degree` of the images are training images (overfitting)."""
    n = round(pool.degree * pool.count)
    if pool.train is None or len(pool.train[0]) < n:
        raise DataError("copied needs train=(images, labels), at least as many as are to be copied")
    images, labels = nothing(pool)
    rows = pool.rng.permutation(len(pool.train[0]))[:n]
    images, labels = images.copy(), labels.copy()
    images[:n], labels[:n] = pool.train[0][rows], pool.train[1][rows]
    return images, labels


def _classes(pool: Pool, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The classes of the pool and their numbers of images. Raises DataError for fewer than two classes."""
    classes, counts = np.unique(pool.labels, return_counts=True)
    if len(classes) < 2:
        raise DataError(f"{name} needs at least 2 classes")
    return classes, counts


def _blend(images: np.ndarray, others: np.ndarray, share: float) -> np.ndarray:
    """A `share` of the way from images to others, rounded. A negative share leads away from them."""
    return (images * (1 - share) + others * share).round().clip(0, 255).astype(np.uint8)


def _each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """`images` with `change` applied to each as a PIL image."""
    changed = []
    for image in images:
        pixels = image.squeeze(2) if image.shape[2] == 1 else image
        changed.append(np.asarray(change(Image.fromarray(pixels))))
    return np.stack(changed).reshape(images.shape)
