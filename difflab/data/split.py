"""Split a source into training images and held-out images.

The split depends only on the source, share and seed.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from difflab.core.errors import DataError
from difflab.core.seeds import numpy_generator
from difflab.data.source import Source
from difflab.data.subset import apportion


def split(source: Source, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training images and of the held-out images: int64 [n] each, in random order.

    held_out: share of images to hold out, between 0 and 1 (exclusive). Every image is on exactly one side.
    Groups are never divided. The split is stratified: classes have the same shares on both sides, as far as
    the groups allow. Every class of two or more images is on both sides, unless all its images are in one
    group.

    Raises DataError for a class of one image, and if a side has fewer than two images.
    """
    n = len(source)
    if n < 4:
        raise DataError(
            f"{source.name} has {n} images; at least 4 are needed: 2 to train on and 2 to hold out"
        )
    labels = np.zeros(n, dtype=np.int64) if source.labels is None else source.labels
    if source.labels is not None and source.classes is not None:
        counts = np.bincount(labels, minlength=len(source.classes))
        if counts.min() < 2:
            name = source.classes[int(np.argmin(counts))]
            raise DataError(
                f"{source.name}: class '{name}' has {counts.min()} image(s), but needs at least 2, one for "
                "each side of the split; add images or remove the class"
            )
    total = int(np.clip(round(held_out * n), 1, n - 1))
    whole_groups = ""
    if source.groups is None:
        side = _by_image(labels, total, seed)
    else:
        side = _by_group(labels, source.groups, total, seed)
        count = len(np.unique(source.groups))
        whole_groups = f" (equal images are in one group, and the {count} groups are not divided)"
    for name, members in (("training", ~side), ("held-out", side)):
        if members.sum() < 2:
            raise DataError(
                f"{source.name}: data.held_out={held_out} leaves {members.sum()} of {n} images to the {name} "
                f"side{whole_groups}; change data.held_out or add images"
            )
    train = numpy_generator("split train", seed).permutation(np.flatnonzero(~side))
    held = numpy_generator("split held-out", seed).permutation(np.flatnonzero(side))
    return train, held


def _targets(counts: np.ndarray, total: int) -> np.ndarray:
    """The number of images to hold out of each class, int64 [C].

    A class of two or more images has at least one image on each side.
    """
    least = (counts >= 2).astype(np.int64)
    most = counts - least
    total = int(np.clip(total, least.sum(), most.sum()))
    if not (most > least).any():
        return least
    # Every class first gets `least`. The remaining images are then apportioned, up to `most`.
    return least + apportion(most - least, total - int(least.sum()), np.zeros_like(counts))


def _by_image(labels: np.ndarray, total: int, seed: int) -> np.ndarray:
    """Hold out the first images of each shuffled class: bool [N], True = held out."""
    side = np.zeros(len(labels), dtype=bool)
    for label, target in enumerate(_targets(np.bincount(labels), total).tolist()):
        members = np.flatnonzero(labels == label)
        side[numpy_generator("split", seed, label).permutation(members)[:target]] = True
    return side


def _by_group(labels: np.ndarray, groups: np.ndarray, total: int, seed: int) -> np.ndarray:
    """Hold out whole groups: bool [N], True = held out.

    The algorithm is greedy. Groups are visited in random order, those with the rarest classes first. A group
    is held out if that brings the counts of its classes closer to their targets. A class with only one group
    cannot be on both sides. All such classes are treated as one class.
    """
    groups = np.unique(groups, return_inverse=True)[1]
    pairs = np.unique(np.stack([labels, groups], 1), axis=0)  # distinct pairs of class and group
    group_counts = np.bincount(pairs[:, 0], minlength=labels.max() + 1)  # the number of groups of each class
    labels = np.where(group_counts[labels] < 2, len(group_counts), labels)
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
    """Move groups to the other side, in place, so that every class of two or more groups is on both sides.

    A group is moved only if every class in it keeps another group on the old side.
    """
    members: list[list[int]] = [[] for _ in range(classes)]
    for group in order:
        for label in content[group]:
            members[label].append(group)
    for groups_of_class in members:
        if len(groups_of_class) < 2 or len({bool(out[group]) for group in groups_of_class}) == 2:
            continue
        side = out[groups_of_class[0]]
        movable = []
        for group in groups_of_class:
            on_side = [sum(out[other] == side for other in members[label]) for label in content[group]]
            if min(on_side) >= 2:
                movable.append(group)
        if movable:
            smallest = min(movable, key=lambda group: sum(content[group].values()))
            out[smallest] = ~side
