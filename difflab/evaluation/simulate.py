"""Simulated collapse: real images changed in a known way and degree, which measures and diagnoses are tried on.

    changed = simulate("tails_cut", images, labels, degree=0.5, count=300, seed=0)

A new kind is one function under ``@kind``. `HARMLESS` are those that a diagnosis has to keep silent about.
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
    """Real images to draw from: uint8 [N, H, W, C], their classes int64 [N], the degree in (0, 1], how many are wanted, and the dice.

    train: images that a model was trained on, uint8 [M, H, W, C], and their classes; only `copied` wants them.
    """

    images: np.ndarray
    labels: np.ndarray
    degree: float
    count: int
    rng: np.random.Generator
    train: tuple[np.ndarray, np.ndarray] | None = None

    def draw(self, rows: np.ndarray | None = None, count: int | None = None) -> np.ndarray:
        """Positions of `count` different images (default: as many as wanted) among `rows` (default: all). Raises DataError."""
        rows, count = (
            np.arange(len(self.images)) if rows is None else rows,
            self.count if count is None else count,
        )
        if len(rows) < count:
            raise DataError(
                f"{len(rows)} images are left to draw {count} from; give a larger pool, a smaller count or a smaller degree"
            )
        return self.rng.permutation(rows)[:count]


Changed = tuple[np.ndarray, np.ndarray]
"""Images uint8 [n, H, W, C] and the class each was asked for, int64 [n]."""

KINDS: dict[str, Callable[[Pool], Changed]] = {}
HARMLESS = ("nothing", "fewer", "reencoded")


def kind(function: Callable[[Pool], Changed]) -> Callable[[Pool], Changed]:
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
    """`count` images (`fewer` gives fewer) drawn from real ones and changed in the way `name`, a pure function of its arguments.

    Raises DataError: an unknown name, a degree outside (0, 1], a pool too small, arrays that do not go together.

    >>> images, labels = np.zeros((6, 8, 8, 3), np.uint8), np.array([0, 0, 0, 1, 1, 1])
    >>> [part.shape for part in simulate("nothing", images, labels, 0.5, count=4)]
    [(4, 8, 8, 3), (4,)]
    """
    if name not in KINDS:
        raise DataError(f"there is no simulated change '{name}'; known: {', '.join(KINDS)}")
    if not 0 < degree <= 1:
        raise DataError(f"degree is {degree}; it lies in (0, 1]")
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != (len(images),):
        raise DataError(
            f"simulate wants uint8 images [n, H, W, C] and labels [n], got {images.dtype} {images.shape} and {labels.shape}"
        )
    return KINDS[name](Pool(images, labels, degree, count, numpy_generator("simulate", name, seed), train))


# ------------------------------------------------------------------------------------------------------- harmless
@kind
def nothing(pool: Pool) -> Changed:
    """Other real images, as they are."""
    rows = pool.draw()
    return pool.images[rows], pool.labels[rows]


@kind
def fewer(pool: Pool) -> Changed:
    """Down to a quarter as many, as they are."""
    rows = pool.draw(count=max(2, round(pool.count * (1 - 0.75 * pool.degree))))
    return pool.images[rows], pool.labels[rows]


@kind
def reencoded(pool: Pool) -> Changed:
    """JPEG, of quality 95 down to 75, without subsampled colours: what a web site does to uploads."""
    images, labels = nothing(pool)

    def one(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=round(95 - 20 * pool.degree), subsampling=0)
        return Image.open(file)

    return _each(images, one), labels


# --------------------------------------------------------------------------------------------- variety is lost
@kind
def tails_cut(pool: Pool) -> Changed:
    """In every class the images farthest from its mean are gone, up to three quarters of them (early collapse)."""
    flat = pool.images.reshape(len(pool.images), -1).astype(np.float32)
    kept = []
    for label in np.unique(pool.labels):
        own = np.flatnonzero(pool.labels == label)
        distance = np.square(flat[own] - flat[own].mean(0)).sum(1)
        kept.append(
            own[np.argsort(distance, kind="stable")][: max(1, round(len(own) * (1 - 0.75 * pool.degree)))]
        )
    rows = pool.draw(np.concatenate(kept))
    return pool.images[rows], pool.labels[rows]


@kind
def shrunk(pool: Pool) -> Changed:
    """Every image moves towards the mean of its class, at most four fifths of the way (variance lost)."""
    images, labels = nothing(pool)
    means = {label: pool.images[pool.labels == label].mean(0) for label in np.unique(labels)}
    return _blend(images, np.stack([means[label] for label in labels]), 0.8 * pool.degree), labels


@kind
def repeated(pool: Pool) -> Changed:
    """Of n images n^(1 - degree) are different, the rest their copies but for a level of noise (catastrophic collapse)."""
    distinct = pool.draw(count=max(1, round(pool.count ** (1 - pool.degree))))
    rows = distinct[pool.rng.integers(0, len(distinct), pool.count)]
    images = pool.images[rows].astype(np.int16) + pool.rng.integers(
        -1, 2, (pool.count, *pool.images.shape[1:])
    )
    return images.clip(0, 255).astype(np.uint8), pool.labels[rows]


@kind
def dropped(pool: Pool) -> Changed:
    """Whole classes are gone, the rarest first, up to three quarters of them (forgetting of what is not in the data)."""
    classes, counts = np.unique(pool.labels, return_counts=True)
    if len(classes) < 2:
        raise DataError("dropped wants at least 2 classes")
    gone = classes[np.argsort(counts, kind="stable")][: max(1, round(0.75 * pool.degree * len(classes)))]
    rows = pool.draw(np.flatnonzero(~np.isin(pool.labels, gone)))
    return pool.images[rows], pool.labels[rows]


# ------------------------------------------------------------------------------------------- concepts are mixed
@kind
def blended(pool: Pool) -> Changed:
    """Every class has another one that its images are mixed with, half and half at degree 1 (late collapse)."""
    images, labels = nothing(pool)
    classes = pool.rng.permutation(np.unique(pool.labels))
    if len(classes) < 2:
        raise DataError("blended wants at least 2 classes")
    partner = dict(zip(classes, np.roll(classes, 1), strict=True))
    others = [pool.images[pool.rng.choice(np.flatnonzero(pool.labels == partner[label]))] for label in labels]
    return _blend(images, np.stack(others), 0.5 * pool.degree), labels


@kind
def swapped(pool: Pool) -> Changed:
    """A share `degree` of the images is asked for as another class than it shows (poisoned labels)."""
    images, labels = nothing(pool)
    classes = np.unique(pool.labels)
    if len(classes) < 2:
        raise DataError("swapped wants at least 2 classes")
    wrong = pool.rng.permutation(len(labels))[: round(pool.degree * len(labels))]
    at = np.searchsorted(classes, labels)
    at[wrong] = (at[wrong] + pool.rng.integers(1, len(classes), len(wrong))) % len(classes)
    return images, classes[at]


# ------------------------------------------------------------------------------------------------- looks change
@kind
def blurred(pool: Pool) -> Changed:
    """A Gaussian blur, of at most a tenth of the side (aesthetic collapse: detail dies)."""
    images, labels = nothing(pool)
    return _each(
        images, lambda image: image.filter(ImageFilter.GaussianBlur(0.1 * pool.degree * image.width))
    ), labels


@kind
def sharpened(pool: Pool) -> Changed:
    """An unsharp mask of at most 400 percent."""
    images, labels = nothing(pool)
    return _each(
        images, lambda image: image.filter(ImageFilter.UnsharpMask(1, round(400 * pool.degree), 0))
    ), labels


@kind
def saturated(pool: Pool) -> Changed:
    """Colours up to three times as far from grey. Raises DataError for grey images."""
    images, labels = nothing(pool)
    if images.shape[3] != 3:
        raise DataError("saturated wants colour images")
    grey = images @ np.array([0.299, 0.587, 0.114])
    return _blend(images, np.repeat(grey[..., None], 3, axis=3), -2 * pool.degree), labels


# ------------------------------------------------------------------------------------------------- memorisation
@kind
def copied(pool: Pool) -> Changed:
    """A share `degree` are training images themselves (overfitting to real images)."""
    if pool.train is None or len(pool.train[0]) < round(pool.degree * pool.count):
        raise DataError("copied wants train=(images, labels), at least as many as are to be copied")
    images, labels = nothing(pool)
    n = round(pool.degree * pool.count)
    rows = pool.rng.permutation(len(pool.train[0]))[:n]
    images, labels = images.copy(), labels.copy()
    images[:n], labels[:n] = pool.train[0][rows], pool.train[1][rows]
    return images, labels


def _blend(images: np.ndarray, others: np.ndarray, share: float) -> np.ndarray:
    """A `share` of the way from images to others, rounded; a negative one leads away from them."""
    return (images * (1 - share) + others * share).round().clip(0, 255).astype(np.uint8)


def _each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    out = [
        np.asarray(change(Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)))
        for image in images
    ]
    return np.stack(out).reshape(images.shape)
