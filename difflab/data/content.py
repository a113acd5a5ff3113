"""Find images with equal pixels, within one set and between sets.

The content of an image is its decoded, cropped and resized pixels. So the same picture as PNG, BMP and
lossless WebP has the same content. Images with equal content are never put on both sides of a comparison
between different images.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from difflab.core.account import Account
from difflab.core.hashing import content_hash
from difflab.data.source import Source

BLOCK = 1024  # images that are decoded at the same time


def contents(
    source: Source, positions: np.ndarray | None = None, kept: dict[int, np.ndarray] | None = None
) -> list[str]:
    """The content hash of each image at `positions` (None = all images). The images are decoded in threads.

    If `kept` is set, the pixels are stored in it by position. Raises DataError that names a damaged image.
    """

    def hash_at(position: int) -> str:
        pixels = source.read(position)
        if kept is not None:
            kept[position] = pixels
        return content_hash(pixels)

    wanted = (np.arange(len(source)) if positions is None else positions).tolist()
    hashes: list[str] = []
    # The decoder changes the warning filters for each image, which is not safe in threads. Filters that are
    # set around all threads are safe.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")
        for start in range(0, len(wanted), BLOCK):
            hashes += pool.map(hash_at, wanted[start : start + BLOCK])
    return hashes


def contents_of(pixels: np.ndarray) -> list[str]:
    """The content hash of each image of `pixels`, uint8 [n, H, W, C]."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter lock
        return list(pool.map(content_hash, pixels))


# ------------------------------------------------------------------------------------------- within one set
def kept_together(source: Source, hashes: Sequence[str]) -> Source:
    """`source` with every set of equal images in one group, and a new account that counts the copies.

    The groups are unchanged if the set has no copies, or if equal images are already in one group.
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
    """Group numbers from 0, int64 [N]: the connected components of rows that are equal in any column.

    Two rows are in one group if they are equal in a column, or if a chain of such rows connects them.
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


def linked(hashes: Sequence[str], copy_of: np.ndarray) -> list[int]:
    """Group numbers from 0: images are in one group if they are equal, or if one is a copy of the other.

    Args:
        hashes: content hash of each image.
        copy_of: position of the image that each image is a copy of, int64 [n]; -1 = of none.

    >>> linked(["a", "b", "c", "a"], np.array([1, -1, -1, -1]))
    [0, 0, 1, 0]
    """
    rows = np.flatnonzero(copy_of >= 0)
    pairs = np.stack([rows, copy_of[rows]], 1)
    content = np.unique(np.asarray(hashes, dtype=str), return_inverse=True)[1]
    # Each pair is one row with the content of its first image, and one with that of its second image.
    columns = (
        np.concatenate([content, content[pairs[:, 0]], content[pairs[:, 1]]]).tolist(),
        np.concatenate([-1 - np.arange(len(content)), rows, rows]).tolist(),
    )
    return joined(*columns)[: len(content)].tolist()


def halves(hashes: Sequence[Hashable], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of two sets of equal size m <= `n` that have no content in common: int64 [m] each.

    Without copies these are the first n images and the next n. All copies of an image go to the same half: to
    the first if they all fit into it, else to the second.

    >>> halves(["a", "b", "c", "a", "b"], 2)
    (array([0, 3]), array([1, 2]))
    """
    size, in_second = Counter(hashes), dict[Hashable, bool]()
    room = n
    for content in dict.fromkeys(hashes):
        in_second[content] = size[content] > room
        if not in_second[content]:
            room -= size[content]
    second_half = np.array([in_second[content] for content in hashes], dtype=bool)
    first, second = np.flatnonzero(~second_half), np.flatnonzero(second_half)
    m = min(n, len(first), len(second))
    return first[:m], second[:m]


def copies(hashes: Sequence[str]) -> int:
    """The number of images that are equal to an earlier one."""
    return len(hashes) - len(set(hashes))


def doubled(hashes: Sequence[str]) -> float:
    """The share of images that are equal to another image of the set, from 0 to 1."""
    return sum(count for count in Counter(hashes).values() if count > 1) / max(1, len(hashes))


# --------------------------------------------------------------------------------------------- between sets
def within(hashes: Sequence[str], others: Iterable[str]) -> np.ndarray:
    """Whether each image has the same content as one of `others`: bool [n]."""
    known = set(others)
    return np.array([content in known for content in hashes], dtype=bool)


def overlaps(sets: Mapping[str, Sequence[str]]) -> list[str]:
    """One sentence for every pair of the named sets that have images in common."""
    out = []
    for (one, a), (other, b) in itertools.combinations(sets.items(), 2):
        shared_a, shared_b = int(within(a, b).sum()), int(within(b, a).sum())
        if shared_a == len(a) and shared_b == len(b):
            out.append(
                f"{one} and {other} are the same images, pixel for pixel ({len(set(a)):,} different ones)"
            )
        elif shared_a:
            out.append(
                f"{one} and {other} share images, pixel for pixel: {shared_a:,} of {len(a):,} of {one}, "
                f"{shared_b:,} of {len(b):,} of {other}"
            )
    return out
