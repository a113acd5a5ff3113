"""The content of images: which of them are equal pixel for pixel, within one set and between sets.

Content is what difflab reads (decoded, cropped, resized), so that one picture as PNG, BMP and lossless WebP
is one content. Equal images are one: never on both sides of a comparison that should be between different
images.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from difflab.core.account import Account
from difflab.core.hashing import content_hash
from difflab.data.source import Source

BLOCK = 1024  # images whose decoding is under way at a time


def contents(
    source: Source, positions: np.ndarray | None = None, kept: dict[int, np.ndarray] | None = None
) -> list[str]:
    """The content hash of each image at `positions` (None = of all), decoded in threads.

    `kept`: gets the pixels by position.

    Raises DataError that names a damaged image.
    """

    def one(position: int) -> str:
        pixels = source.read(position)
        if kept is not None:
            kept[position] = pixels
        return content_hash(pixels)

    wanted = (np.arange(len(source)) if positions is None else positions).tolist()
    # Decoders silence warnings one image at a time, which is not safe in threads: around all of them it is.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")
        return [
            found
            for start in range(0, len(wanted), BLOCK)
            for found in pool.map(one, wanted[start : start + BLOCK])
        ]


def contents_of(pixels: np.ndarray) -> list[str]:
    """The content hash of each image of uint8 [n, H, W, C]."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing does not hold Python's lock
        return list(pool.map(content_hash, pixels))


# ------------------------------------------------------------------------------------------- within one set
def kept_together(source: Source, hashes: Sequence[str]) -> Source:
    """`source` with groups that hold equal images together, and the copies counted in its account (a new
    one).

    Groups that hold them together already, and a set without copies, stay as they are.
    """
    account = Account.from_dict(source.account.as_dict())
    first: dict[str, int] = {}
    for i, content in enumerate(hashes):
        if first.setdefault(content, i) != i:
            account.add("duplicated", source.keys[i], f"as {source.keys[first[content]]}")
    groups = source.groups
    if len(first) < len(hashes):
        groups = joined(hashes) if groups is None else joined(groups.tolist(), hashes)
        if source.groups is not None and groups.max() + 1 == len(np.unique(source.groups)):
            groups = source.groups
    return replace(source, groups=groups, account=account)


def joined(*columns: Iterable[object]) -> np.ndarray:
    """int64 [N] group numbers, 0 upwards: rows that agree in any column, directly or over others, share a
    group.
    """
    rows = list(zip(*columns, strict=True))
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[int, object], int] = {}
    for i, row in enumerate(rows):
        for column, value in enumerate(row):
            j = root(first.setdefault((column, value), i))
            parent[max(root(i), j)] = min(root(i), j)
    roots = [root(i) for i in range(len(rows))]
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def halves(hashes: Sequence[str], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of two sets of equal size, at most `n`, with no content in common: int64 [m] each.

    Without copies they are the first n and the next n. Copies go where the first of them goes, all to the
    second half where the first has no room for all.

    >>> halves(["a", "b", "c", "a", "b"], 2)
    (array([0, 3]), array([1, 2]))
    """
    size, side = Counter(hashes), dict[str, int]()
    room = n
    for content in dict.fromkeys(hashes):
        side[content] = int(size[content] > room)
        room -= 0 if side[content] else size[content]
    where = np.array([side[content] for content in hashes], dtype=np.int64)
    first, second = np.flatnonzero(where == 0), np.flatnonzero(where == 1)
    m = min(n, len(first), len(second))
    return first[:m], second[:m]


def copies(hashes: Sequence[str]) -> int:
    """How many images are equal to an earlier one."""
    return len(hashes) - len(set(hashes))


def doubled(hashes: Sequence[str]) -> float:
    """Share of the images that are equal to another one of the same set, 0 to 1."""
    return sum(count for count in Counter(hashes).values() if count > 1) / max(1, len(hashes))


# --------------------------------------------------------------------------------------------- between sets
def within(hashes: Sequence[str], others: Iterable[str]) -> np.ndarray:
    """bool [n]: whether each image is, pixel for pixel, one of others."""
    known = set(others)
    return np.array([content in known for content in hashes], dtype=bool)


def overlaps(sets: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence for every two of the named sets that have images in common."""
    out = []
    for (one, a), (other, b) in itertools.combinations(sets.items(), 2):
        mine, theirs = int(within(a, b).sum()), int(within(b, a).sum())
        if mine == len(a) and theirs == len(b):
            out.append(
                f"{one} and {other} are the same images, pixel for pixel ({len(set(a)):,} different ones)"
            )
        elif mine:
            out.append(
                f"{one} and {other} share images, pixel for pixel: {mine:,} of {len(a):,} of {one}, "
                f"{theirs:,} of {len(b):,} of {other}"
            )
    return out
