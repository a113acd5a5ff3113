"""What sets of images have in common, exactly or nearly, and what follows from it.

A model makes no image that exists already, unless it has memorised it. Real images are equal where a set
holds copies. So shared images count from the share of copies within the sets.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from difflab.data.content import contents_of, halves, linked, overlaps, within
from difflab.data.near_copies import near_copies, near_copies_within, thumbnails
from difflab.evaluation.finding import Finding
from difflab.evaluation.signs import COPIES
from difflab.metrics.interval import wilson

MOST = 1000
"""Images of a set from which the share of copies within it is found."""


@dataclass(frozen=True)
class Contents:
    """What identifies the images of a set.

    Attributes:
        hashes: content hashes.
        thumbnails: uint8 [n, h, w, C], as of `difflab.data.near_copies.thumbnails`.
    """

    hashes: Sequence[str]
    thumbnails: np.ndarray

    @classmethod
    def of(cls, *parts: np.ndarray) -> Contents:
        """Of images uint8 [n, H, W, C], in one or several parts of equal size."""
        hashes = [content for pixels in parts for content in contents_of(pixels)]
        return cls(hashes, np.concatenate([thumbnails(pixels) for pixels in parts]))

    def __len__(self) -> int:
        return len(self.hashes)

    @cached_property
    def groups(self) -> list[int]:
        """The group of each image. Equal images and near copies are in one group."""
        return linked(self.hashes, near_copies_within(self.thumbnails))

    @cached_property
    def repeated(self) -> float:
        """The share of images that are equal to, or near copies of, another one of the set, from 0 to 1.

        Near copies are searched for the first `MOST` different images.
        """
        near = near_copies_within(self.thumbnails, MOST) >= 0
        count = Counter(self.hashes)
        equal = np.array([count[content] > 1 for content in self.hashes], dtype=bool)
        return float(max(equal.mean(), (equal | near)[:MOST].mean())) if len(self) else 0.0


class Shared:
    """Which of `images` are in the set `of`.

    Attributes:
        exact, near: whether each image is equal to, or else a near copy of, one of `of`: bool [n].
        near_in_of: how many of `of` have near copies among `images`.
    """

    def __init__(self, images: Contents, of: Contents):
        found = near_copies(images.thumbnails, of.thumbnails)
        self.exact = within(images.hashes, of.hashes)
        self.near = (found >= 0) & ~self.exact
        self.near_in_of = len(np.unique(found[self.near]))

    @property
    def either(self) -> np.ndarray:
        return self.exact | self.near


def shared_in_words(sets: Mapping[str, Contents]) -> list[str]:
    """One sentence for every pair of the named sets that share images, and one if they share near copies."""
    notes = overlaps({name: contents.hashes for name, contents in sets.items()})
    for one, other in itertools.combinations(sets, 2):
        # What is usual is read from real images, which are the training images or the set named first.
        images, of = (one, other) if other == "train" else (other, one)
        shared = Shared(sets[images], sets[of])
        if shared.near.any():
            count = {images: int(shared.near.sum()), of: shared.near_in_of}
            notes.append(
                f"{one} and {other} share near copies (the same pictures, saved again, resized or changed by "
                f"a few grey levels): {count[one]:,} of {len(sets[one]):,} of {one}, {count[other]:,} of "
                f"{len(sets[other]):,} of {other}"
            )
    return notes


def without_trained(
    name: str, real: Contents, train: Contents | None, least: int
) -> tuple[np.ndarray, list[str]]:
    """Positions of the real images that were not trained on, int64, and a note if some were.

    All positions and no note, if no more are training images or near copies of them than the copies within
    the sets explain, or if less than half of the images or less than `least` would remain.
    """
    everything = np.arange(len(real))
    if train is None:
        return everything, []
    trained = Shared(real, train).either
    count, n = int(trained.sum()), len(real)
    if not count or 2 * count >= n or n - count < least:
        return everything, []
    if wilson(count / n, n)[0] <= max(real.repeated, train.repeated):
        return everything, []
    return everything[~trained], [
        f"{name}: {count:,} of {n:,} images are training images or near copies of them, which show nothing "
        "about unseen images; they are left out"
    ]


def split(real: Contents, kept: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of equal size of at most `n` of the positions `kept`, int64 [m] each.

    Equal images and near copies are in one of them.
    """
    groups = np.array(real.groups)[kept].tolist()
    first, second = halves(groups, min(n, len(kept) // 2))
    return kept[first], kept[second]


class Overlap:
    """Real images among samples and among training images, and what follows from them.

    Shared images count from the share of copies within the sets plus the share that is relevant for copies.

    Args:
        control, other: both halves of the real images. Only the first half is the control of near copies:
            the other one may have been trained on, as in a run, where it is part of the train split.
        train: the training images.

    Attributes:
        known: content hashes of the control images that were trained on, if they are so many that the
            control says nothing about unseen images; else empty.
        doubts: sentences about controls that are not valid.
    """

    def __init__(self, control: np.ndarray, other: np.ndarray, train: np.ndarray | None):
        self.reference = Contents.of(control, other)
        self.train = Contents.of(control[:0] if train is None else train)
        self.least = max(self.reference.repeated, self.train.repeated) + COPIES[0].relevant
        self.known: frozenset[str] = frozenset()
        self.doubts: list[str] = []
        shared = Shared(self.reference, self.train)
        trained = shared.either[: len(control)]
        if trained.sum() > self.least * len(control):
            self.known = frozenset(np.array(self.reference.hashes[: len(control)])[trained].tolist())
            self.doubts.append(
                f"{self._in_words(shared)}: near copies of training images cannot be told from what unseen "
                "real images show, and samples are nearer to the reference than to unseen images; give a "
                "reference that no model was trained on"
            )

    def _in_words(self, shared: Shared) -> str:
        if set(self.reference.hashes) == set(self.train.hashes):
            return "reference and train are the same images, pixel for pixel"
        count, n = int(shared.either.sum()), len(self.reference)
        shown = f"all {n}" if count == n else f"{count} of {n}"
        exactly = " or near copies of them" if shared.near.any() else ", pixel for pixel"
        return f"{shown} reference images are training images{exactly}"

    def judge(self, finding: Finding, samples: np.ndarray) -> None:
        """Note in a finding how many samples are real images. If they are many, that is the explanation."""
        contents = Contents.of(samples)
        training, reference = Shared(contents, self.train), Shared(contents, self.reference)
        new = ~training.either
        sets = {
            "training images": (training.exact, training.near),
            "reference images": (reference.exact & new, reference.near & new),
        }
        finding.equal = {name: int(exact.sum()) for name, (exact, _) in sets.items()}
        finding.near = {name: int(near.sum()) for name, (_, near) in sets.items()}
        finding.copies_told = not self.known
        n = len(samples)
        for name, of in (("reference images", "reference images"), ("overfitting", "training images")):
            lowest_share = wilson((finding.equal[of] + finding.near[of]) / n, n)[0]
            if lowest_share > self.least and name not in finding.instead:
                finding.instead = [name, *finding.instead]
