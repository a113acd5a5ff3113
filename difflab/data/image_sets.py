"""Open several image sets of any kind in one size and one colour mode, so that they can be compared.

A set is a folder, a parquet file, an array, a list of PIL images, or a data set of `datasets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.core.files import existing, matches
from difflab.core.size import LARGEST, SMALLEST, Size, in_words, size_of
from difflab.data.arrays import SHAPES, are_images, read_arrays
from difflab.data.decode import suffixes
from difflab.data.hub import is_dataset, list_dataset
from difflab.data.imagefolder import list_folder
from difflab.data.listing import Listing, Survey, assembled, refuse_row_numbers, survey
from difflab.data.parquet import list_parquet
from difflab.data.source import Source, encode_labels
from difflab.data.walk import inside_folder, suffix_of, walk


def open_sides(
    sets: dict[str, Any], image_size: int | Sequence[int] | None, max_bad: float, notes: list[str]
) -> dict[str, Source]:
    """Open every set as a `Source`, all with one size and one colour mode.

    The size is `image_size` in pixels: the side of a square, or (H, W). By default images keep their size if
    it is the same for all images of all sets. Otherwise they become squares, whose side is the shortest side
    of the typical sizes of the sets. `notes` receives sentences about differences between the sets, and about
    images and files that are not read.

    A set is one of these:

    - the path of a folder (also of a snapshot in the hub's cache), of parquet files, or of a .npy or .npz
    file; - uint8 images [n, H, W, C] or [n, H, W], in NumPy or torch; - a datasets.Dataset; - a list of PIL
    images, arrays, encoded images or paths.

    Raises DataError for a set that is missing, for an `image_size` that is no size, and if the share of
    images that cannot be read is above `max_bad`, a number from 0 to 1.
    """
    data = Data(bad_images="skip")
    listings = {side: _usable(listing_of(images, side, notes), side, notes) for side, images in sets.items()}
    surveys = {side: survey(listing, data) for side, listing in listings.items()}
    size = _chosen_size(surveys, image_size)
    part = "the central square of each" if size[0] == size[1] else "each is cropped around its centre and"
    for side, surveyed in surveys.items():
        if surveyed.common_size != size:
            sizes = f"{len(set(surveyed.sizes))} different sizes"
            if surveyed.common_size is not None:
                sizes = in_words(surveyed.common_size)
            notes.append(f"{side}: {sizes}; {part} is resized to {in_words(size)}")
    grey = _say_differences(surveys, notes)
    out = {}
    for side, listing in listings.items():
        account = listing.account
        bad = account.count("skipped")
        if bad:
            key, reason = account.entries["skipped"].first[0]
            text = f"{side}: {bad} of {len(listing.keys)} images are left out, the first: {key} ({reason})"
            if bad / len(listing.keys) > max_bad:
                raise DataError(
                    f"{text}; repair or remove them, or allow a share above {max_bad:g} with --max-bad"
                )
            notes.append(text)
        out[side] = assembled(listing, surveys[side], [size], 1 if grey else 3, data.max_pixels)
        notes += [f"{side}: {part}" for part in account.parts(without=("skipped",))]
    return out


def _say_differences(surveys: dict[str, Survey], notes: list[str]) -> bool:
    """Whether all sets are grey. Differences in colour and file format are added to `notes`."""
    colours = {side: "grey" if surveyed.grey else "colour" for side, surveyed in surveys.items()}
    if len(set(colours.values())) > 1:
        listed = ", ".join(f"{side} is {colour}" for side, colour in colours.items())
        notes.append(f"colour: {listed}; all are read as RGB")
    formats = {}
    for side, surveyed in surveys.items():
        if surveyed.formats:
            formats[side] = " and ".join(sorted(surveyed.formats))
    if len(set(formats.values())) > 1:
        listed = ", ".join(f"{side} is {kind}" for side, kind in formats.items())
        notes.append(f"file format: {listed}; a lossy format by itself changes the measures")
    return set(colours.values()) == {"grey"}


def _chosen_size(surveys: dict[str, Survey], wanted: int | Sequence[int] | None) -> Size:
    """The size (H, W) of all sets, see `open_sides`. Raises DataError if `wanted` is no size."""
    if wanted is not None:
        try:
            return size_of(wanted)
        except ValueError as error:
            raise DataError(f"image_size {error} (got {wanted!r})") from error
    common = {surveyed.common_size for surveyed in surveys.values()}
    (size,) = common if len(common) == 1 else (None,)
    if size is not None and min(size) >= SMALLEST and max(size) <= LARGEST:
        return size
    shortest = min(min(surveyed.typical_size) for surveyed in surveys.values())
    side = max(SMALLEST, min(LARGEST, shortest))
    return side, side


def _usable(listing: Listing, side: str, notes: list[str]) -> Listing:
    """The listing. Labels that are not classes are removed: they are not needed to compare two sets."""
    try:
        if listing.labels is not None:
            encode_labels(listing.labels, listing.where)
            refuse_row_numbers(listing.labels, listing.where)
    except DataError as error:
        notes.append(f"{side}: labels are not used ({str(error).partition(';')[0]})")
        return replace(listing, labels=None)
    return listing


# ------------------------------------------------------------------------------------------- kinds of sets
def listing_of(images: Any, side: str, notes: list[str]) -> Listing:
    """The listing of a set of any kind. Raises DataError if it has no image."""
    if isinstance(images, (str, Path)):
        return _of_path(existing(Path(images), side), side, notes)
    if is_dataset(images):
        return list_dataset(images, Data(), side, anywhere=True)
    items: Any = _list(images, side) if isinstance(images, (list, tuple)) else _array(images, side)
    if not len(items):
        raise DataError(f"{side}: there is no image")
    return Listing(side, side, [str(i) for i in range(len(items))], items)


def _of_path(path: Path, side: str, notes: list[str]) -> Listing:
    """The listing of a folder or file. Raises DataError for a file of another type."""
    if path.is_file() and path.suffix.lower() in (".npy", ".npz"):
        images = read_arrays(path, notes)
        return Listing(str(path), str(path), [str(i) for i in range(len(images))], images)
    if path.is_dir():
        root = inside_folder(path, f"imagefolder:{path}")
        kinds = {suffix_of(key) for key in walk(root)}
        if ".parquet" not in kinds or kinds & suffixes():  # a parquet file beside images is their metadata
            return list_folder(Data(source=f"imagefolder:{path}"), path)
    elif path.suffix != ".parquet" and not matches(path):
        raise DataError(f"{side}: {path} must be a folder, or a .parquet, .npz or .npy file")
    return list_parquet(Data(source=f"parquet:{path}"), path)


def _list(images: Sequence[Any], side: str) -> list[Any]:
    """The list with strings replaced by paths. Raises DataError for an item that is not an image."""
    out = [Path(image) if isinstance(image, str) else image for image in images]
    for i, image in enumerate(out):
        if isinstance(image, np.ndarray):
            if not are_images(image.dtype, (1, *image.shape)) or 0 in image.shape:
                raise DataError(
                    f"{side}: image {i} must be uint8 [H, W], [H, W, 1] or [H, W, 3], not {image.dtype} "
                    f"{list(image.shape)}"
                )
        elif not isinstance(image, (Image.Image, Path, bytes)):
            raise DataError(
                f"{side}: a list must contain PIL images, uint8 arrays, encoded images or paths, not "
                f"{type(image).__name__}"
            )
        elif isinstance(image, Path) and not image.is_file():
            raise DataError(
                f"{side}: {image} is not a file (current folder: {Path.cwd()}); a list must contain PIL "
                "images, uint8 arrays, encoded images or paths"
            )
    return out


def _array(images: Any, side: str) -> np.ndarray:
    """The images as a NumPy array. Raises DataError unless it is uint8 images."""
    try:
        array = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    except Exception as error:  # bfloat16, sparse, ragged
        raise DataError(
            f"{side}: cannot be converted to an array ({' '.join(str(error).split())}); images must be "
            f"{SHAPES}"
        ) from error
    if not are_images(array.dtype, array.shape):
        raise DataError(f"{side}: images must be {SHAPES}, not {array.dtype} {list(array.shape)}")
    if not array.size:
        raise DataError(f"{side}: there is no image")
    return array
