"""`Listing`: a set of images before any is opened. `survey` reads all headers, `source_of` makes a `Source`.

Every kind of input (folder, parquet, hub, arrays, PIL images) is first made a `Listing`. All later steps are
the same for every kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from difflab.config import Data
from difflab.core.account import Account
from difflab.core.errors import DataError
from difflab.core.files import sound
from difflab.core.size import LARGEST, SMALLEST, Size, bucket_of, lost_share, setting_text
from difflab.data.declared import Declared, declarations
from difflab.data.decode import Item, channels_of, decode, look, suffixes
from difflab.data.manifest import validated
from difflab.data.source import IGNORE_LABELS, NO_LABELS, Source, labels_of_kept

CAPTIONS = ("text", "prompt", "caption")  # names of caption columns; the first one that exists is used
LABELS = ("label",)  # names of label columns
MOST_LOST = 0.5
"""Mean share of the area of the images that a size [H, W] may cut off. Squares are cut from any images."""
ROW_NUMBERS = 4  # a set of at least this many images with a different label each is refused


class Items(Protocol):
    """Maps a position to the image to decode. It is pickled for worker processes."""

    def __getitem__(self, position: int, /) -> Item: ...


@dataclass(frozen=True)
class Listing:
    """N images with their keys, labels and captions, before any image is opened.

    name: the name of the source. where: the name of the set in error messages. labels, prompts: one per
    image; None if the set has none. rows: the columns `declared.COLUMNS` of each image in a table, if it has
    any of them. weights: of the images in the loss, if data.weight names a column. columns: the columns that
    captions can be read from. account: the ignored files, unlisted images and notes so far.
    """

    name: str
    where: str
    keys: list[str]
    items: Items
    labels: list[Any] | None = None
    prompts: list[str] | None = None
    licence: str = ""
    columns: tuple[str, ...] = ()
    account: Account = field(default_factory=Account)
    rows: Sequence[Mapping[str, Any]] | None = None
    weights: list[float] | None = None


KEPT_BYTES = 64 * 2**20
"""Bytes of pixels that a survey keeps, so that small images are decoded once."""


@dataclass(frozen=True)
class Survey:
    """The result of `survey`.

    kept: positions of the usable images. sizes: (height, width) of each of them. grey: no usable image has
    colour. formats: the file formats in lower case. decoded: pixels by position, of the first images that fit
    into `KEPT_BYTES`.
    """

    kept: list[int]
    sizes: list[Size]
    grey: bool
    formats: set[str]
    decoded: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def common_size(self) -> Size | None:
        """(height, width) of all usable images; None if they differ."""
        return self.sizes[0] if len(set(self.sizes)) == 1 else None

    @property
    def typical_size(self) -> Size:
        """The most frequent (height, width)."""
        return Counter(self.sizes).most_common(1)[0][0]


def survey(listing: Listing, data: Data) -> Survey:
    """Read the header of every image, and add the results to the account of the listing.

    With data.bad_images=skip every image is also decoded once, so that every image that is counted here can
    be read later. Otherwise damaged pixels raise DataError when the image is read.

    Raises DataError for the first bad image (unless bad images are skipped), and if no image can be read.
    """
    account, skip = listing.account, data.bad_images == "skip"
    out = Survey([], [], True, set())
    grey, kept_bytes = True, 0
    account.found += len(listing.keys)
    for position, key in enumerate(listing.keys):
        try:
            header = look(
                listing.items[position], f"{listing.where}: image {key}", data.max_pixels, whole=skip
            )
        except DataError as error:
            if not skip:
                raise
            account.add("skipped", key, str(error))
            continue
        out.kept.append(position)
        out.sizes.append((header.height, header.width))
        if header.format:
            out.formats.add(header.format.lower())
        grey = grey and header.grey
        if header.pixels is not None and kept_bytes + header.pixels.nbytes <= KEPT_BYTES:
            out.decoded[position] = header.pixels
            kept_bytes += header.pixels.nbytes
        if header.frames:
            account.add("frames", key, header.frames)
        if header.metadata:
            account.add("metadata", key, header.metadata)
    if not out.kept:
        bad = account.entries.get("skipped")
        reason = f" ({bad.count} cannot be read; the first: {bad.first[0][1]})" if bad else ""
        raise DataError(
            f"{listing.where} has no image that can be read{reason}; the suffixes of images are "
            f"{', '.join(sorted(suffixes()))}"
        )
    account.read += len(out.kept)
    return replace(out, grey=grey)


@dataclass(frozen=True)
class Reader:
    """Decodes one image, given its index among the kept images: uint8 [H, W, channels].

    sizes: (H, W). bucket: the position in `sizes` of the size of each kept image.
    """

    items: Items
    kept: list[int]
    keys: list[str]
    where: str
    max_pixels: int
    sizes: Sequence[Size]
    bucket: list[int]
    channels: int
    decoded: dict[int, np.ndarray] = field(default_factory=dict)

    def __call__(self, index: int) -> np.ndarray:
        position = self.kept[index]
        return decode(
            self.decoded[position] if position in self.decoded else self.items[position],
            f"{self.where}: image {self.keys[position]}",
            self.max_pixels,
            self.sizes[self.bucket[index]],
            self.channels,
        )


@dataclass(frozen=True)
class Declaring:
    """What one image declares about its origin in each layer, given its index among the kept images."""

    items: Items
    kept: list[int]
    rows: Sequence[Mapping[str, Any]] | None

    def __call__(self, index: int) -> list[Declared]:
        position = self.kept[index]
        return declarations(self.items[position], self.rows[position] if self.rows else None, validated)


@dataclass(frozen=True)
class Originals:
    """The key and the encoded image of one image, given its index among the kept images."""

    items: Items
    kept: list[int]
    keys: list[str]

    def __call__(self, index: int) -> tuple[str, Item]:
        position = self.kept[index]
        return self.keys[position], self.items[position]


def source_of(listing: Listing, data: Data) -> Source:
    """The set as a `Source`, with the size of data.image_size and the colour mode of data.color.

    Raises DataError for bad images, for images of several sizes without data.image_size, for a size with
    another aspect ratio than the images, and for labels that cannot be used.
    """
    if listing.labels is not None:
        refuse_row_numbers(listing.labels, listing.where)
    surveyed = survey(listing, data)
    channels, buckets = channels_of(data, 1 if surveyed.grey else 3), data.bucket_sizes
    if buckets:
        return assembled(listing, surveyed, buckets, channels, data.max_pixels)
    size = data.size or _common_size(listing, surveyed)
    _check_aspect(listing, surveyed, size)
    return assembled(listing, surveyed, [size], channels, data.max_pixels)


def assembled(
    listing: Listing, surveyed: Survey, sizes: Sequence[Size], channels: int, max_pixels: int
) -> Source:
    """The usable images of a set as a `Source`. The images that are cropped are added to the account.

    Of several `sizes`, (H, W), each image gets the one with the nearest aspect ratio. Raises DataError for a
    class without a usable image.
    """
    labels, classes = labels_of_kept(listing.labels, surveyed.kept, listing.where)
    bucket = [bucket_of(height, width, sizes) for height, width in surveyed.sizes]
    _count_crops(listing, surveyed, [sizes[i] for i in bucket])
    return Source(
        name=listing.name,
        size=sizes[int(np.bincount(bucket).argmax())],
        sizes=tuple(sizes) if len(sizes) > 1 else (),
        bucket=np.array(bucket, dtype=np.int64) if len(sizes) > 1 else None,
        channels=channels,
        labels=labels,
        classes=classes,
        prompts=None if listing.prompts is None else [listing.prompts[i] for i in surveyed.kept],
        groups=None,
        attributes={},
        keys=[listing.keys[i] for i in surveyed.kept],
        licence=listing.licence,
        account=listing.account,
        read=Reader(
            listing.items,
            surveyed.kept,
            listing.keys,
            listing.where,
            max_pixels,
            sizes,
            bucket,
            channels,
            surveyed.decoded,
        ),
        columns=listing.columns,
        weights=None if listing.weights is None else np.array(listing.weights)[surveyed.kept],
        declare=Declaring(listing.items, surveyed.kept, listing.rows),
        original=Originals(listing.items, surveyed.kept, listing.keys),
    )


def _count_crops(listing: Listing, surveyed: Survey, sizes: Sequence[Size]) -> None:
    """Add the images that are cropped to the aspect ratio of their entry of `sizes` to the account."""
    account, lost_area = listing.account, 0.0
    for position, (height, width), size in zip(surveyed.kept, surveyed.sizes, sizes, strict=True):
        lost = lost_share(height, width, size)
        if lost:
            account.add("cropped", listing.keys[position], f"{width} x {height}")
            lost_area += lost
    account.lost_area = lost_area / max(1, account.count("cropped"))


def _check_aspect(listing: Listing, surveyed: Survey, size: Size) -> None:
    """Raise DataError if most of the area of the images would be cut off, such as by [W, H] for [H, W]."""
    lost = float(np.mean([lost_share(*of_image, size) for of_image in surveyed.sizes]))
    if size[0] == size[1] or lost <= MOST_LOST:
        return
    height, width = surveyed.typical_size
    longest = max(size)
    sides = (longest, longest * width / height) if height > width else (longest * height / width, longest)
    fitting = (max(SMALLEST, round(sides[0])), max(SMALLEST, round(sides[1])))
    raise DataError(
        f"{listing.where}: data.image_size={setting_text(size)} is [H, W] and cuts off {lost:.0%} of the "
        f"area of the images, which are typically {width} x {height}; use "
        f"data.image_size={setting_text(fitting)}, or crop the images yourself"
    )


def _common_size(listing: Listing, surveyed: Survey) -> Size:
    """(height, width) of images that all have one size. Raises DataError for others."""
    height, width = surveyed.sizes[0]
    if surveyed.common_size is None:
        other = next(i for i, of_image in enumerate(surveyed.sizes) if of_image != (height, width))
        key, other_key = (listing.keys[surveyed.kept[i]] for i in (0, other))
        raise DataError(
            f"{listing.where}: the images have different sizes ({key} is {width} x {height}, {other_key} is "
            f"{surveyed.sizes[other][1]} x {surveyed.sizes[other][0]}); set a size, for example "
            "data.image_size=64 or data.image_size=[48,64], or data.buckets"
        )
    if not (min(height, width) >= SMALLEST and max(height, width) <= LARGEST):
        raise DataError(
            f"{listing.where}: the images are {width} x {height}; set a size from {SMALLEST} to {LARGEST}, "
            "for example data.image_size=64"
        )
    return height, width


# --------------------------------------------------------------------------------------- columns of a table
def chosen(
    wanted: str | None, usual: Sequence[str], columns: Sequence[str], field: str, where: str
) -> str | None:
    """The column to read: `wanted` if it is set, else the first of `usual` that exists, else None.

    Raises DataError that lists the columns if `wanted`, the value of the config field `field`, is not among
    them.
    """
    if wanted is None:
        return next((name for name in usual if name in columns), None)
    if wanted not in columns:
        raise DataError(
            f"{where} has no column '{wanted}', which {field} names (its columns: "
            f"{', '.join(columns) or 'none'})"
        )
    return wanted


def label_column(data: Data, columns: Sequence[str], where: str) -> str | None:
    """The column with the class; None if the set has none, or if data.label=none."""
    return None if data.label == NO_LABELS else chosen(data.label, LABELS, columns, "data.label", where)


def captions(values: list[Any], column: str, place: Callable[[int], str]) -> list[str]:
    """Return the captions of a column, unchanged.

    Raises DataError for a caption that is missing, is not a string, or contains half of a surrogate pair. The
    message names its `place`.
    """
    for i, value in enumerate(complete(values, column, place)):
        if not isinstance(value, str):
            raise DataError(
                f"{place(i)}: '{column}' must be a string, not {type(value).__name__}; set "
                "data.caption_column to another column"
            )
        sound(value, place(i))
    return values


def complete(values: list[Any], column: str, place: Callable[[int], str]) -> list[Any]:
    """Return the values, unchanged. Raises DataError that names the `place` of the first missing value."""
    missing = next((i for i, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise DataError(
            f"{place(missing)} has no '{column}', but other images have one; add it to every image, or "
            "remove it from all"
        )
    return values


def refuse_row_numbers(labels: Sequence[Any], where: str) -> None:
    """Raise DataError if no two images have the same label: the column holds row numbers or names."""
    distinct = {str(label) for label in labels}
    if len(labels) >= ROW_NUMBERS and None not in labels and len(distinct) == len(labels):
        shown = ", ".join(str(label)[:20] for label in labels[:3])
        raise DataError(
            f"{where}: each of the {len(labels)} images has a different label ({shown}, ...), so the labels "
            f"are not classes; {IGNORE_LABELS}"
        )


def named(labels: list[Any], names: list[str]) -> list[Any]:
    """Replace whole-number labels by class names.

    A label out of range becomes None (`datasets` writes -1 for a missing label).
    """
    return [names[label] if isinstance(label, int) and 0 <= label < len(names) else None for label in labels]


def sound_labels(labels: list[Any], place: Any) -> list[Any]:
    """Return the labels, unchanged.

    Raises DataError for a label with half of a surrogate pair. The message names its `place`.
    """
    for i, label in enumerate(labels):
        if isinstance(label, str):
            sound(label, place(i))
    return labels
