"""A set of images before any is opened, the first look at all of them, and the `Source` that comes out.

Every way in (folder, parquet, hub, arrays, PIL images) makes a `Listing`; from there on there is one way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from difflab.config import Data
from difflab.core.account import Account
from difflab.core.errors import DataError
from difflab.core.files import sound
from difflab.data.decode import Item, channels_of, decode, look, suffixes
from difflab.data.source import IGNORE_LABELS, NO_LABELS, Source, labels_of_kept

CAPTIONS = ("text", "prompt", "caption")  # columns that are captions, the first that is there
LABELS = ("label",)
ROW_NUMBERS = 4  # from so many images on, as many classes as images are taken for row numbers


class Items(Protocol):
    """Position -> what is to be decoded; travels to worker processes."""

    def __getitem__(self, position: int, /) -> Item: ...


@dataclass(frozen=True)
class Listing:
    """What is known of N images before any is opened.

    name: of the source. where: names the set in errors. labels, prompts: one of each image, None = the set
    has none. columns: the names that captions could have been read from. account: ignored files, unlisted
    images and notes so far.
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


@dataclass(frozen=True)
class Survey:
    """What a first look at all images of a set found.

    kept: positions of the usable images. sizes: (width, height) -> images of that size; first: -> the key of
    the first one.
    """

    kept: list[int]
    sizes: Counter[tuple[int, int]]
    first: dict[tuple[int, int], str]
    grey: bool
    formats: set[str]


def survey(listing: Listing, data: Data) -> Survey:
    """Look at the header of every image, and fill the account.

    Under data.bad_images=skip every image is decoded fully once, so that what is counted now can be read
    later; otherwise a damaged body raises when it is read. Raises DataError: the first bad image, or none
    left.
    """
    account, skip = listing.account, data.bad_images == "skip"
    out = Survey([], Counter(), {}, True, set())
    grey, lost_area = True, 0.0
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
        size = (header.width, header.height)
        out.kept.append(position)
        out.sizes[size] += 1
        out.first.setdefault(size, key)
        if header.format:
            out.formats.add(header.format.lower())
        grey = grey and header.grey
        if header.width != header.height:
            account.add("cropped", key, f"{header.width} x {header.height}")
            lost_area += 1 - min(size) / max(size)
        if header.frames:
            account.add("frames", key, header.frames)
        if header.metadata:
            account.add("metadata", key, header.metadata)
    if not out.kept:
        bad = account.entries.get("skipped")
        found = f" ({bad.count} were unusable, the first: {bad.first[0][1]})" if bad else ""
        raise DataError(
            f"{listing.where} holds no image that can be read{found}; images end in "
            f"{', '.join(sorted(suffixes()))}"
        )
    account.read += len(out.kept)
    account.lost_area = lost_area / max(1, account.count("cropped"))
    return Survey(out.kept, out.sizes, out.first, grey, out.formats)


@dataclass(frozen=True)
class Reader:
    """Index among the kept images -> uint8 [size, size, channels]."""

    items: Items
    kept: list[int]
    keys: list[str]
    where: str
    max_pixels: int
    size: int
    channels: int

    def __call__(self, index: int) -> np.ndarray:
        position = self.kept[index]
        return decode(
            self.items[position],
            f"{self.where}: image {self.keys[position]}",
            self.max_pixels,
            self.size,
            self.channels,
        )


def source_of(listing: Listing, data: Data) -> Source:
    """The set as data.image_size and data.color want it.

    Raises DataError: bad images, no common size, unusable labels.
    """
    if listing.labels is not None:
        refuse_row_numbers(listing.labels, listing.where)
    found = survey(listing, data)
    size, channels = (
        data.image_size or _common_side(found, listing.where),
        channels_of(data, 1 if found.grey else 3),
    )
    return assembled(listing, found, size, channels, data.max_pixels)


def assembled(listing: Listing, found: Survey, size: int, channels: int, max_pixels: int) -> Source:
    """The usable images of a set as a Source. Raises DataError for a class that has lost all its images."""
    labels, classes = labels_of_kept(listing.labels, found.kept, listing.where)
    return Source(
        name=listing.name,
        size=size,
        channels=channels,
        labels=labels,
        classes=classes,
        prompts=None if listing.prompts is None else [listing.prompts[i] for i in found.kept],
        groups=None,
        attributes={},
        keys=[listing.keys[i] for i in found.kept],
        licence=listing.licence,
        account=listing.account,
        read=Reader(listing.items, found.kept, listing.keys, listing.where, max_pixels, size, channels),
        columns=listing.columns,
    )


def _common_side(found: Survey, where: str) -> int:
    (first, key), *others = found.first.items()
    if others:
        other, other_key = others[0]
        raise DataError(
            f"{where}: images differ in size ({key} is {first[0]} x {first[1]}, {other_key} is {other[0]} x "
            f"{other[1]}); "
            "say which size to use, for example data.image_size=64"
        )
    if first[0] != first[1]:
        raise DataError(
            f"{where}: images are {first[0]} x {first[1]}, not square; say which size to crop and resize to, "
            "for example data.image_size=64"
        )
    if not 4 <= first[0] <= 4096:
        raise DataError(
            f"{where}: images are {first[0]} x {first[1]}; say which size to use (4 to 4096), for example "
            "data.image_size=64"
        )
    return first[0]


# --------------------------------------------------------------------------------------- columns of a table
def chosen(
    wanted: str | None, usual: Sequence[str], columns: Sequence[str], field: str, where: str
) -> str | None:
    """The column that config field `field` asks for; null = the first of `usual` that is there.

    Raises DataError that lists the columns.
    """
    if wanted is None:
        return next((name for name in usual if name in columns), None)
    if wanted not in columns:
        raise DataError(
            f"{where} has no column '{wanted}' that {field} asks for (it has: {', '.join(columns) or 'none'})"
        )
    return wanted


def label_column(data: Data, columns: Sequence[str], where: str) -> str | None:
    """The column of the class, None = the set has none or data.label=none."""
    return None if data.label == NO_LABELS else chosen(data.label, LABELS, columns, "data.label", where)


def captions(values: list[Any], column: str, place: Callable[[int], str]) -> list[str]:
    """A column of captions.

    Raises DataError that names the `place` of one that is missing, no text, or half a surrogate pair.
    """
    for i, value in enumerate(complete(values, column, place)):
        if not isinstance(value, str):
            raise DataError(
                f"{place(i)}: '{column}' must be a string, not {type(value).__name__}; name another column "
                "with data.caption_column"
            )
        sound(value, place(i))
    return values


def complete(values: list[Any], column: str, place: Callable[[int], str]) -> list[Any]:
    """The values themselves. Raises DataError that names the `place` of the first one that is missing."""
    missing = next((i for i, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise DataError(
            f"{place(missing)}: no '{column}', which others have; give it to every image or to none"
        )
    return values


def refuse_row_numbers(labels: Sequence[Any], where: str) -> None:
    """Raise DataError where every image has a label of its own: such a column is a row number or a name."""
    if (
        len(labels) >= ROW_NUMBERS
        and None not in labels
        and len({str(label) for label in labels}) == len(labels)
    ):
        shown = ", ".join(str(label)[:20] for label in labels[:3])
        raise DataError(
            f"{where}: each of {len(labels)} images has a label of its own ({shown}, ...), so it is no "
            f"class; {IGNORE_LABELS}"
        )


def named(labels: list[Any], names: list[str]) -> list[Any]:
    """Class names in place of whole numbers; what is out of range (`datasets` writes -1 for 'none') becomes
    None.
    """
    return [names[label] if isinstance(label, int) and 0 <= label < len(names) else None for label in labels]


def sound_labels(labels: list[Any], place: Any) -> list[Any]:
    """The labels themselves. Raises DataError that names the `place` of one that is half a surrogate pair."""
    return [sound(label, place(i)) if isinstance(label, str) else label for i, label in enumerate(labels)]
