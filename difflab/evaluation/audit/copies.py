"""Which images of an audit are copies: of each other, and of images of known origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from difflab.core.seeds import numpy_generator
from difflab.data.image_sets import listing_of
from difflab.data.listing import Listing
from difflab.data.near_copies import near_copies, near_copies_within
from difflab.evaluation.audit.stream import Options, stream

MOST = 2000
"""Images of a set that are compared for near copies. More are drawn at random: time grows with the square."""
EMPTY = np.zeros((0, 32, 32, 3), np.uint8)


@dataclass(frozen=True)
class Known:
    """Images of known origin: content hashes of all, thumbnails uint8 [m, 32, 32, 3] of at most `MOST`."""

    name: str
    contents: frozenset[str]
    thumbnails: np.ndarray


def drawn(n: int, seed: int, name: str) -> frozenset[int]:
    """The positions of at most `MOST` of n images that are compared for near copies."""
    if n <= MOST:
        return frozenset(range(n))
    return frozenset(numpy_generator("audit near copies", seed, name).permutation(n)[:MOST].tolist())


def read_known(images: Any, name: str, seed: int, notes: list[str]) -> Known:
    """The content of a set of images of known origin. Images that cannot be read are noted and left out."""
    listing = listing_of(images, name, notes)
    contents, thumbnails = set(), list[np.ndarray]()
    chosen = drawn(len(listing.keys), seed, name)
    failed = 0
    for views in stream(listing, range(len(listing.keys)), Options(marks=False), chosen):
        for view in views:
            failed += bool(view.failure)
            if view.content:
                contents.add(view.content)
            if view.thumbnail is not None:
                thumbnails.append(view.thumbnail)
    if failed:
        notes.append(f"{name}: {failed:,} of {len(listing.keys):,} images cannot be read")
    return Known(name, frozenset(contents), np.stack(thumbnails) if thumbnails else EMPTY)


@dataclass
class Thumbnails:
    """Thumbnails of the images of the audited set that are compared for near copies.

    A call that goes on with a record makes those of the images before again.
    """

    listing: Listing
    chosen: frozenset[int]
    by_position: dict[int, np.ndarray] = field(default_factory=dict)

    def complete(self, readable: Sequence[int]) -> tuple[list[int], np.ndarray]:
        """Positions and thumbnails of those of `readable` that are chosen."""
        wanted = [position for position in readable if position in self.chosen]
        missing = [position for position in wanted if position not in self.by_position]
        for views in stream(self.listing, missing, Options(marks=False)):
            for view in views:
                if view.thumbnail is not None:
                    self.by_position[view.position] = view.thumbnail
        kept = [position for position in wanted if position in self.by_position]
        return kept, np.stack([self.by_position[i] for i in kept]) if kept else EMPTY


def near_each_other(thumbnails: np.ndarray) -> np.ndarray:
    """Whether each image is a near copy of another one that is not equal to it, bool [n]."""
    found = near_copies_within(thumbnails)
    near = found >= 0
    near[found[near]] = True
    return near


def near_known(thumbnails: np.ndarray, known: Known) -> np.ndarray:
    """Whether each image is a near copy of, or equal to, one of the known images, bool [n]."""
    if not len(known.thumbnails):
        return np.zeros(len(thumbnails), dtype=bool)
    return near_copies(thumbnails, known.thumbnails) >= 0
