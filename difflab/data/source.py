"""`Source`: a set of real images, read one at a time. The functions here are used by every reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from difflab.config import Data
from difflab.core.account import Account
from difflab.core.errors import DataError
from difflab.core.size import Size
from difflab.data.declared import Declared

LICENCE = "unknown (your own images)"
NO_LABELS = "none"  # the value of data.label with which labels are not read
IGNORE_LABELS = f"name another column with data.label=COLUMN, or ignore labels with data.label={NO_LABELS}"


@dataclass(frozen=True, eq=False)
class Source:
    """N real images, read one at a time, with their labels, captions and keys.

    size: (height, width) in pixels; in a set of several sizes the most frequent one. channels: 1 or 3.
    labels: int64 [N], positions in `classes`. prompts: one caption per image. groups: int64 [N]; all images
    of one group are on the same side of the split. attributes: N strings per name. keys: a stable identifier
    per image. licence: the licence of the images. account: the numbers of images that were read, skipped or
    changed. columns: the columns that captions can be read from.

    sizes: the sizes of a set of several sizes, from the narrowest to the widest; () = all images have one
    size. bucket: int64 [N], the position in `sizes` of each image, or None.

    weights: float64 [N], at least 0, the weight of each image in the loss; None = all weigh the same.

    declare: maps an index to what its file declares about its origin, one entry per layer; None = the images
    ship with difflab and are real.

    original: maps an index to the key and the encoded image of its file, in its own size; None as above.

    read: maps an index to uint8 [H, W, channels]. It decodes only that image, and raises DataError that
    names a damaged image.
    """

    name: str
    size: Size
    channels: int
    labels: np.ndarray | None
    classes: list[str] | None
    prompts: list[str] | None
    groups: np.ndarray | None
    attributes: dict[str, list[str]]
    keys: list[str]
    licence: str
    account: Account = field(repr=False)
    read: Callable[[int], np.ndarray] = field(repr=False)
    columns: tuple[str, ...] = ()
    sizes: tuple[Size, ...] = ()
    bucket: np.ndarray | None = None
    weights: np.ndarray | None = None
    declare: Callable[[int], list[Declared]] | None = field(default=None, repr=False)
    original: Callable[[int], tuple[str, Any]] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def record(self) -> tuple[int, int, int]:
        """The shape (H, W, C) of an image."""
        return (*self.size, self.channels)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(key, reason) of the first images that cannot be read."""
        return self.account.entries["skipped"].first if self.account.count("skipped") else []


@dataclass(frozen=True)
class ArrayReader:
    """Reads images that are in memory, uint8 [N, H, W, channels]."""

    images: np.ndarray

    def __call__(self, index: int) -> np.ndarray:
        return self.images[index].copy()


def in_sizes_of_use(source: Source) -> Source:
    """`source` with those sizes only that an image has. Its account says how many images have each."""
    if source.bucket is None:
        return source
    used, bucket = np.unique(source.bucket, return_inverse=True)
    counts, sizes = np.bincount(bucket), tuple(source.sizes[i] for i in used)
    shown = ", ".join(f"{w} x {h}: {n:,}" for (h, w), n in zip(sizes, counts.tolist(), strict=True))
    account = Account.from_dict(source.account.as_dict())
    account.notes.append(f"buckets in pixels, and their images: {shown}")
    most = sizes[int(np.argmax(counts))]
    if len(sizes) == 1:
        return replace(source, size=most, sizes=(), bucket=None, account=account)
    return replace(source, size=most, sizes=sizes, bucket=bucket.astype(np.int64), account=account)


def no_label_choice(data: Data) -> None:
    """Raise DataError if data.label names a column. For sources that have only one kind of label."""
    if data.label not in (None, NO_LABELS):
        raise DataError(
            f"data.label={data.label}: data.source={data.source} has only one kind of label; remove "
            f"data.label, or set it to {NO_LABELS}"
        )


def encode_labels(values: Sequence[Any], where: str) -> tuple[np.ndarray, list[str]]:
    """Labels as positions in a list of classes: int64 [N], and the classes in ascending order.

    The values are all whole numbers or all strings. Raises DataError for a missing label and for other or
    mixed types.
    """
    missing = [i for i, value in enumerate(values) if value is None]
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of {len(values)} images have no label, the first is image "
            f"{missing[0]}; add the missing labels, or {IGNORE_LABELS}"
        )
    types = {type(value) for value in values}
    if types - {int, str} or len(types) > 1:
        raise DataError(
            f"{where}: labels must all be whole numbers or all be strings, not "
            f"{', '.join(sorted(t.__name__ for t in types))}; {IGNORE_LABELS}"
        )
    present = sorted(set(values))
    position = {value: i for i, value in enumerate(present)}
    return np.array([position[value] for value in values], dtype=np.int64), [str(value) for value in present]


def labels_of_kept(
    values: Sequence[Any] | None, kept: list[int], where: str
) -> tuple[np.ndarray | None, list[str] | None]:
    """The result of `encode_labels` for the images at positions `kept`; (None, None) without labels.

    Raises DataError that names a class without a usable image.
    """
    if values is None:
        return None, None
    labels, classes = encode_labels(values, where)
    counts = np.bincount(labels[kept], minlength=len(classes))
    if counts.min() == 0:
        raise DataError(
            f"{where}: no image of class '{classes[int(np.argmin(counts))]}' can be read; repair its images "
            "or remove the class"
        )
    return labels[kept], classes
