"""Images of several sizes in one array.

Images of one size are one array [n, H, W, C]. Images of several sizes are a one-dimensional array of arrays
[h, w, C]. Indexing, `len` and loops work on both. What needs one size (torch.from_numpy, arithmetic between
images) fails on the second kind, instead of reading padded pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from difflab.core.files import atomic


def together(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images [h, w, C] as one array: [n, H, W, C] if all have one size, else an array of n arrays.

    >>> together([np.zeros((2, 3, 1)), np.zeros((3, 2, 1))]).shape
    (2,)
    """
    if len({image.shape for image in images}) == 1:
        return np.stack(list(images))
    out = np.empty(len(images), dtype=object)
    for i, image in enumerate(images):
        out[i] = image
    return out


def by_size(images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The positions int64 [m] and the images [m, h, w, C] of each size, in the order of the first ones."""
    if images.dtype != object:
        yield np.arange(len(images)), images
        return
    positions: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        positions.setdefault(image.shape, []).append(i)
    for chosen in positions.values():
        yield np.array(chosen), np.stack([images[i] for i in chosen])


def largest_side(images: np.ndarray) -> int:
    """The longest side of the images in pixels."""
    return max(max(image.shape[:2]) for image in images)


def each_size(images: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The results of `compute` for images of every size, in the order of the images.

    Args:
        compute: maps images [m, h, w, C] of one size to an array [m, ...].
    """
    if images.dtype != object:
        return compute(images)
    results: list[Any] = [None] * len(images)
    for positions, part in by_size(images):
        for position, result in zip(positions.tolist(), compute(part), strict=True):
            results[position] = result
    return together(results)


# --------------------------------------------------------------------------------------------------- files
class Ragged:
    """Arrays of several shapes that are stored one after another in a flat array. An index gives one of them.

    Args:
        flat: all values, for example a memory-mapped file.
        shapes: the shape of each array, int64 [n, d].
    """

    def __init__(self, flat: np.ndarray, shapes: np.ndarray):
        self.flat, self.shapes = flat, shapes
        self.ends = np.cumsum(shapes.prod(1))

    def __getitem__(self, index: int) -> np.ndarray:
        start = self.ends[index - 1] if index else 0
        return self.flat[start : self.ends[index]].reshape(self.shapes[index])


def save(path: Path, images: np.ndarray) -> None:
    """Write the images to a .npy file. Of images of several sizes a second file holds the shapes."""
    if images.dtype == object:
        _write(_shapes_path(path), np.array([image.shape for image in images], dtype=np.int64))
        images = np.concatenate([image.ravel() for image in images])
    _write(path, images)


def mapped(path: Path) -> Any:
    """The images that `save` wrote, memory-mapped: an array [n, ...], or `Ragged`."""
    values, shapes = np.load(path, mmap_mode="r", allow_pickle=False), _shapes_path(path)
    return Ragged(values, np.load(shapes, allow_pickle=False)) if shapes.exists() else values


def _shapes_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}-shapes.npy")


def _write(path: Path, array: np.ndarray) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, array, allow_pickle=False)
