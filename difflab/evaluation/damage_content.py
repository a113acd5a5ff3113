"""Simulated damages to what images show: lost variety, mixed concepts, wrong labels, and copies.

The harmless kinds are here too: a diagnosis must not raise an alarm for them.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from difflab.core.errors import DataError
from difflab.evaluation.damage import Labelled, Pool, blend, each, jpeg, kind, noisy

HARMLESS = ("nothing", "fewer", "reencoded")


# --------------------------------------------------------------------------------------------------- harmless
@kind("harmless")
def nothing(pool: Pool) -> Labelled:
    """Other real images, unchanged."""
    return pool.unchanged()


@kind("harmless")
def fewer(pool: Pool) -> Labelled:
    """Fewer images, unchanged; at degree 1 a quarter of them."""
    rows = pool.draw(count=max(2, round(pool.count * (1 - 0.75 * pool.degree))))
    return pool.images[rows], pool.labels[rows]


@kind("harmless")
def reencoded(pool: Pool) -> Labelled:
    """Images saved as JPEG, of quality 95 down to 75 at degree 1, without colour subsampling."""
    images, labels = pool.unchanged()
    return each(images, partial(jpeg, quality=round(95 - 20 * pool.degree), subsampling=0)), labels


# -------------------------------------------------------------------------------------------- variety is lost
@kind("variety")
def tails_cut(pool: Pool) -> Labelled:
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


@kind("variety")
def shrunk(pool: Pool) -> Labelled:
    """Images move towards the mean of their class, four fifths of the way at degree 1 (lost variance)."""
    images, labels = pool.unchanged()
    means = {label: pool.images[pool.labels == label].mean(0) for label in np.unique(labels)}
    return blend(images, np.stack([means[label] for label in labels]), 0.8 * pool.degree), labels


@kind("variety")
def repeated(pool: Pool) -> Labelled:
    """Only n^(1 - degree) of n images are different.

    The others are copies with noise of one grey level (catastrophic collapse).
    """
    distinct = pool.draw(count=max(1, round(pool.count ** (1 - pool.degree))))
    rows = distinct[pool.rng.integers(0, len(distinct), pool.count)]
    return noisy(pool.images[rows], pool.rng), pool.labels[rows]


@kind("variety")
def dropped(pool: Pool) -> Labelled:
    """Whole classes are removed, the rarest first, three quarters of them at degree 1 (forgetting)."""
    classes, counts = pool.classes("dropped")
    n_removed = max(1, round(0.75 * pool.degree * len(classes)))
    removed = classes[np.argsort(counts, kind="stable")][:n_removed]
    rows = pool.draw(np.flatnonzero(~np.isin(pool.labels, removed)))
    return pool.images[rows], pool.labels[rows]


# ----------------------------------------------------------------------------------------- concepts are mixed
@kind("concepts")
def blended(pool: Pool) -> Labelled:
    """Every class is blended with images of one other class, half and half at degree 1 (late collapse)."""
    images, labels = pool.unchanged()
    classes = pool.rng.permutation(pool.classes("blended")[0])
    partner = dict(zip(classes, np.roll(classes, 1), strict=True))
    others = [pool.images[pool.rng.choice(np.flatnonzero(pool.labels == partner[label]))] for label in labels]
    return blend(images, np.stack(others), 0.5 * pool.degree), labels


# ------------------------------------------------------------------------------------------- labels are wrong
@kind("labels")
def swapped(pool: Pool) -> Labelled:
    """A share `degree` of the images has the label of another class, drawn for each (poisoned labels)."""
    images, labels = pool.unchanged()
    classes, _ = pool.classes("swapped")
    wrong = pool.rng.permutation(len(labels))[: round(pool.degree * len(labels))]
    number = np.searchsorted(classes, labels)
    shift = pool.rng.integers(1, len(classes), len(wrong))
    number[wrong] = (number[wrong] + shift) % len(classes)
    return images, classes[number]


@kind("labels")
def permuted(pool: Pool) -> Labelled:
    """A share `degree` of the labels goes through one permutation of the classes (poisoned labels).

    The permutation moves every class. At degree 1 each class has exactly the label of another one.
    """
    images, labels = pool.unchanged()
    classes = pool.rng.permutation(pool.classes("permuted")[0])
    moved = dict(zip(classes, np.roll(classes, 1), strict=True))
    labels = labels.copy()
    for row in pool.rng.permutation(len(labels))[: round(pool.degree * len(labels))]:
        labels[row] = moved[labels[row]]
    return images, labels


# ------------------------------------------------------------------------------------------------- memorised
@kind("copies")
def copied(pool: Pool) -> Labelled:
    """A share `degree` of the images are training images (overfitting)."""
    return _replaced(pool, "copied", "train", pool.train)


@kind("copies")
def overlapping(pool: Pool) -> Labelled:
    """A share `degree` of the images are images of the reference, pixel for pixel."""
    return _replaced(pool, "overlapping", "reference", pool.reference)


@kind("copies")
def overlapping_nearly(pool: Pool) -> Labelled:
    """A share `degree` of the images are images of the reference with noise of one grey level."""
    reference = pool.reference
    if reference is not None:
        reference = noisy(reference[0], pool.rng), reference[1]
    return _replaced(pool, "overlapping_nearly", "reference", reference)


def _replaced(pool: Pool, name: str, argument: str, source: Labelled | None) -> Labelled:
    """Unchanged images, of which a share `degree` is replaced by images of `source`."""
    n = round(pool.degree * pool.count)
    if source is None or len(source[0]) < n:
        raise DataError(f"{name} needs {argument}=(images, labels), at least as many as are to be copied")
    images, labels = pool.unchanged()
    rows = pool.rng.permutation(len(source[0]))[:n]
    images, labels = images.copy(), labels.copy()
    images[:n], labels[:n] = source[0][rows], source[1][rows]
    return images, labels
