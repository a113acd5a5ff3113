"""Image sets as anybody has them (folders, parquet, arrays, PIL images, datasets), side by side in one size
and one colour mode.
"""

from __future__ import annotations

from collections import Counter
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
from difflab.data.arrays import SHAPES, are_images, read_arrays
from difflab.data.decode import suffixes
from difflab.data.hub import is_dataset, list_dataset
from difflab.data.imagefolder import list_folder
from difflab.data.listing import Listing, Survey, assembled, refuse_row_numbers, survey
from difflab.data.parquet import list_parquet
from difflab.data.source import Source, encode_labels
from difflab.data.walk import inside_folder, suffix_of, walk


def open_sides(
    given: dict[str, Any], image_size: int | None, max_bad: float, notes: list[str]
) -> dict[str, Source]:
    """Every side as a source of one size and one colour mode; what differed, what was left out and what was
    ignored is said in `notes`.

    A side is a folder (also a snapshot in the hub's cache), a parquet file, folder or pattern, a .npy or .npz
    file, uint8 images [n, H, W, C] or [n, H, W] (NumPy or torch), a datasets.Dataset, or a list of PIL
    images, arrays, encoded images or paths. Raises DataError: nothing there, or more unreadable images than a
    share of `max_bad`.
    """
    data = Data(bad_images="skip")
    listings = {side: _usable(listing_of(what, side, notes), side, notes) for side, what in given.items()}
    found = {side: survey(listing, data) for side, listing in listings.items()}
    sides = {side: _side(seen.sizes) for side, seen in found.items()}
    size = image_size or min(sides.values())
    for side, seen in found.items():
        if len(seen.sizes) > 1 or sides[side] != size:
            kinds = f"{len(seen.sizes)} different sizes" if len(seen.sizes) > 1 else f"{sides[side]} px"
            notes.append(f"{side}: {kinds}; the central square of each is resized to {size} px")
    grey = _say_differences(found, notes)
    out = {}
    for side, listing in listings.items():
        account = listing.account
        bad = account.count("skipped")
        if bad:
            key, reason = account.entries["skipped"].first[0]
            text = f"{side}: {bad} of {len(listing.keys)} images are left out, the first: {key} ({reason})"
            if bad / len(listing.keys) > max_bad:
                raise DataError(
                    f"{text}; repair or remove them, or allow a share of more than {max_bad:g} (--max-bad)"
                )
            notes.append(text)
        notes += [f"{side}: {part}" for part in account.parts(without=("skipped",))]
        out[side] = assembled(listing, found[side], size, 1 if grey else 3, data.max_pixels)
    return out


def _say_differences(found: dict[str, Survey], notes: list[str]) -> bool:
    """Whether all sides are grey; colours and file formats that differ are said."""
    colours = {side: "grey" if seen.grey else "colour" for side, seen in found.items()}
    if len(set(colours.values())) > 1:
        notes.append(
            "colour: "
            + ", ".join(f"{side} is {kind}" for side, kind in colours.items())
            + "; all are read as RGB"
        )
    formats = {side: " and ".join(sorted(seen.formats)) for side, seen in found.items() if seen.formats}
    if len(set(formats.values())) > 1:
        notes.append(
            "file format: "
            + ", ".join(f"{side} is {kind}" for side, kind in formats.items())
            + "; a lossy format alone shifts measures"
        )
    return set(colours.values()) == {"grey"}


def _side(shapes: Counter[tuple[int, int]]) -> int:
    """The most frequent short side in pixels, as far as it can be asked for."""
    return max(4, min(4096, min(shapes.most_common(1)[0][0])))


def _usable(listing: Listing, side: str, notes: list[str]) -> Listing:
    """The listing, without labels that are no classes: two sets can be compared without."""
    try:
        if listing.labels is not None:
            encode_labels(listing.labels, listing.where)
            refuse_row_numbers(listing.labels, listing.where)
    except DataError as error:
        notes.append(f"{side}: labels are not used ({str(error).partition(';')[0]})")
        return replace(listing, labels=None)
    return listing


# -------------------------------------------------------------------------------------------- what is given
def listing_of(what: Any, side: str, notes: list[str]) -> Listing:
    """The images of one side before any is opened.

    `open_sides` says what a side may be, and what is raised.
    """
    if isinstance(what, (str, Path)):
        return _of_path(existing(Path(what), side), side, notes)
    if is_dataset(what):
        return list_dataset(what, Data(), side, anywhere=True)
    items: Any = _list(what, side) if isinstance(what, (list, tuple)) else _array(what, side)
    if not len(items):
        raise DataError(f"{side}: there is no image")
    return Listing(side, side, [str(i) for i in range(len(items))], items)


def _of_path(path: Path, side: str, notes: list[str]) -> Listing:
    if path.is_file() and path.suffix.lower() in (".npy", ".npz"):
        images = read_arrays(path, notes)
        return Listing(str(path), str(path), [str(i) for i in range(len(images))], images)
    if path.is_dir():
        root = inside_folder(path, f"imagefolder:{path}")
        kinds = {suffix_of(key) for key in walk(root)}
        if ".parquet" not in kinds or kinds & suffixes():  # beside images it is their metadata
            return list_folder(Data(source=f"imagefolder:{path}"), path)
    elif path.suffix != ".parquet" and not matches(path):
        raise DataError(f"{side}: {path} is no folder and no .parquet, .npz or .npy file; give one of these")
    return list_parquet(Data(source=f"parquet:{path}"), path)


def _list(images: Sequence[Any], side: str) -> list[Any]:
    """Paths for strings; otherwise as it is."""
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
                f"{side}: a list must hold PIL images, uint8 arrays, encoded images or paths, not "
                f"{type(image).__name__}; or give a folder"
            )
        elif isinstance(image, Path) and not image.is_file():
            raise DataError(
                f"{side}: {image} is no file (looked from {Path.cwd()}); a list must hold PIL images, uint8 "
                "arrays, encoded images or paths"
            )
    return out


def _array(what: Any, side: str) -> np.ndarray:
    try:
        array = what.detach().cpu().numpy() if isinstance(what, torch.Tensor) else np.asarray(what)
    except Exception as error:  # bfloat16, sparse, ragged
        raise DataError(
            f"{side}: cannot be made an array ({' '.join(str(error).split())}); images must be {SHAPES}"
        ) from error
    if not are_images(array.dtype, array.shape):
        raise DataError(f"{side}: images must be {SHAPES}, not {array.dtype} {list(array.shape)}")
    if not array.size:
        raise DataError(f"{side}: there is no image")
    return array
