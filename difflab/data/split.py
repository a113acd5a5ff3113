"""Split a source into training images and held-out images. A pure function of its inputs."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from difflab.core.errors import DataError
from difflab.core.seeds import numpy_generator
from difflab.data.source import Source
from difflab.data.subset import apportion


def split(source: Source, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training images and of the held-out images: two int64 [n], each in random order. Every
    image is in one of them.

    held_out: share in (0, 1). Classes keep their shares on both sides, and every class of two or more images
    occurs on both, unless its images all belong to one group: groups stay whole. Raises DataError: a class of
    one image, or a side of fewer than two images.
    """
    n = len(source)
    if n < 4:
        raise DataError(
            f"{source.name} has {n} images; at least 4 are needed, 2 to train on and 2 to hold out"
        )
    labels = np.zeros(n, dtype=np.int64) if source.labels is None else source.labels
    if source.labels is not None and source.classes is not None:
        counts = np.bincount(labels, minlength=len(source.classes))
        if counts.min() < 2:
            name = source.classes[int(np.argmin(counts))]
            raise DataError(
                f"{source.name}: class '{name}' has {counts.min()} image(s), but needs 2, one for each side "
                "of the split; add images or remove the class"
            )
    total = int(np.clip(round(held_out * n), 1, n - 1))
    side = (
        _by_image(labels, total, seed)
        if source.groups is None
        else _by_group(labels, source.groups, total, seed)
    )
    for name, members in (("training", ~side), ("held-out", side)):
        if members.sum() < 2:
            raise DataError(
                f"{source.name}: data.held_out={held_out} leaves {members.sum()} of {n} images to the {name} "
                "side"
                + (
                    ""
                    if source.groups is None
                    else f" ({len(np.unique(source.groups))} groups, with equal images in one, stay whole)"
                )
                + "; change data.held_out or add images"
            )
    train, held = np.flatnonzero(~side), np.flatnonzero(side)
    return numpy_generator("split train", seed).permutation(train), numpy_generator(
        "split held-out", seed
    ).permutation(held)


def _targets(counts: np.ndarray, total: int) -> np.ndarray:
    """Number of images to hold out per class, int64 [C].

    A class of two or more images keeps at least one on each side.
    """
    least = (counts >= 2).astype(np.int64)
    most = counts - least
    total = int(np.clip(total, least.sum(), most.sum()))
    # apportion knows a lower bound only: give each class its least first, then share what is left under the
    # upper bound.
    return (
        least + apportion(most - least, total - int(least.sum()), np.zeros_like(counts))
        if (most > least).any()
        else least
    )


def _by_image(labels: np.ndarray, total: int, seed: int) -> np.ndarray:
    """bool [N], True = held out: the first images of each shuffled class."""
    side = np.zeros(len(labels), dtype=bool)
    for label, target in enumerate(_targets(np.bincount(labels), total).tolist()):
        members = np.flatnonzero(labels == label)
        side[numpy_generator("split", seed, label).permutation(members)[:target]] = True
    return side


def _by_group(labels: np.ndarray, groups: np.ndarray, total: int, seed: int) -> np.ndarray:
    """bool [N], True = held out, whole groups at a time.

    Groups come in random order, those with the rarest class first; one is held out when that brings the
    counts of its classes closer to their targets. Classes that are one group can only fall on one side: they
    are shared out together, as if they were one class.
    """
    groups = np.unique(groups, return_inverse=True)[1]
    spread = np.bincount(
        np.unique(np.stack([labels, groups], 1), axis=0)[:, 0], minlength=labels.max() + 1
    )  # groups per class
    labels = np.where(spread[labels] < 2, len(spread), labels)
    labels = np.unique(labels, return_inverse=True)[1]
    counts = np.bincount(labels)
    targets = _targets(counts, total)

    content: list[dict[int, int]] = [defaultdict(int) for _ in range(groups.max() + 1)]
    for label, group in zip(labels.tolist(), groups.tolist(), strict=True):
        content[group][label] += 1
    shuffled = numpy_generator("split", seed, "groups").permutation(len(content))
    order = sorted(shuffled.tolist(), key=lambda group: min(counts[label] for label in content[group]))
    held = np.zeros(len(counts), dtype=np.int64)
    out = np.zeros(len(content), dtype=bool)
    for group in order:
        gain = sum(
            (abs(held[c] - targets[c]) - abs(held[c] + k - targets[c])) / counts[c]
            for c, k in content[group].items()
        )
        if gain > 0:
            out[group] = True
            for c, k in content[group].items():
                held[c] += k
    _mend(content, out, order, len(counts))
    return out[groups]


def _mend(content: list[dict[int, int]], out: np.ndarray, order: list[int], classes: int) -> None:
    """Move groups, in place, until every class of two or more groups has one on each side.

    Only groups that no other class needs on their side are moved.
    """
    members: list[list[int]] = [[] for _ in range(classes)]
    for group in order:
        for label in content[group]:
            members[label].append(group)
    for groups_of_class in members:
        if len(groups_of_class) < 2 or len({bool(out[group]) for group in groups_of_class}) == 2:
            continue
        where = out[groups_of_class[0]]
        spare = [
            g
            for g in groups_of_class
            if all(sum(out[other] == where for other in members[c]) >= 2 for c in content[g])
        ]
        if spare:
            mover = min(spare, key=lambda g: sum(content[g].values()))
            out[mover] = ~where
