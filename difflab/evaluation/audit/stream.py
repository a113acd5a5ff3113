"""Look at the images of a listing one after the other, in threads, without keeping them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.core.hashing import content_hash
from difflab.core.size import Size
from difflab.core.text import plain
from difflab.data.audit_record import HASH
from difflab.data.declared import Declared, decided, declarations
from difflab.data.decode import Item, fit_array, in_colour, look
from difflab.data.listing import Listing
from difflab.data.manifest import validated
from difflab.data.near_copies import SIDE, square_thumbnail
from difflab.data.stealth import hidden_text
from difflab.data.watermark import can_carry, read_mark
from difflab.evaluation.audit.names import generator_of_name, size_of_generators

CHUNK = 256
"""Images that are handed on at a time. At most one image per thread is held as pixels of its own size."""
READ_WHOLE = 64 * 2**20
"""Files up to this many bytes are read once, into memory."""
LONGEST = 300
"""Largest number of characters of the reason why an image cannot be read."""


@dataclass(frozen=True)
class Options:
    """What is looked at besides metadata, names and sizes.

    Attributes:
        pixels: decode the images; False = headers only.
        marks: look for invisible watermarks and hidden text.
        small: (H, W) to which `View.small` is cropped and resized; None = no such image.
        channels: of `View.small`, 1 or 3.
    """

    pixels: bool = True
    marks: bool = True
    small: Size | None = None
    channels: int = 3


@dataclass(frozen=True)
class View:
    """What was seen of one image.

    Attributes:
        position: in the listing.
        content: the first 16 hex digits of the hash of its upright RGB pixels in its own size; "" if it is
            not decoded.
        failure: why it cannot be read; "" = it can.
        size: (height, width) of the upright image in pixels; (0, 0) if it cannot be read.
        format: as Pillow names it, in lower case; "" of arrays.
        found: layer -> kind, for the layers that found something in this image alone.
        evidence: what its metadata says. It comes from the file.
        thumbnail, small: uint8 [32, 32, 3], and [H, W, channels]; None if not asked for.
    """

    position: int
    content: str = ""
    failure: str = ""
    size: Size = (0, 0)
    format: str = ""
    found: dict[str, str] = field(default_factory=dict)
    evidence: str = ""
    thumbnail: np.ndarray | None = None
    small: np.ndarray | None = None


def stream(
    listing: Listing, positions: Sequence[int], options: Options, thumbnails: frozenset[int] | None = None
) -> Iterator[list[View]]:
    """Views of the images at `positions`, in this order, in lists of at most `CHUNK`.

    An image that cannot be read has a view with its failure.

    Args:
        thumbnails: the positions whose views have thumbnails; None = all.
    """

    def view(position: int) -> View:
        wanted = thumbnails is None or position in thumbnails
        return view_of(listing, position, options, wanted)

    # Decoders release the interpreter lock; reading headers does not, and threads would only wait for it.
    threads = min(8, os.cpu_count() or 1) if options.pixels else 1
    # as in data/content.py: the decoder changes the warning filters, which is only safe inside of others
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")
        for start in range(0, len(positions), CHUNK):
            yield list(pool.map(view, positions[start : start + CHUNK]))


def view_of(listing: Listing, position: int, options: Options, thumbnail: bool = True) -> View:
    """The view of one image. Never raises for its content."""
    try:
        item = _in_memory(listing.items[position])
    except (DataError, OSError) as error:
        return View(position, failure=_reason(error))
    rows = listing.rows
    layers = declarations(item, rows[position] if rows else None, validated)
    found = found_in_text(listing.keys[position], layers)
    evidence = decided(layers).evidence
    where = f"image {listing.keys[position]}"
    try:
        header = look(item, where, Data().max_pixels, whole=options.pixels)
    except DataError as error:
        return View(position, failure=_reason(error), found=found, evidence=evidence)
    usual = size_of_generators(header.height, header.width)
    if usual:
        found["size"] = usual
    size, kind = (header.height, header.width), header.format.lower()
    if not options.pixels:
        return View(position, size=size, format=kind, found=found, evidence=evidence)
    pixels = header.pixels if header.pixels is not None else np.asarray(item)
    rgb = in_colour(pixels)
    if options.marks:
        found |= _hidden(item, rgb)
    return View(
        position,
        content_hash(rgb)[:HASH],
        size=size,
        format=kind,
        found=found,
        evidence=evidence,
        thumbnail=_thumbnail(rgb) if thumbnail else None,
        small=None if options.small is None else fit_array(rgb, options.small, options.channels),
    )


def found_in_text(key: str, layers: Sequence[Declared]) -> dict[str, str]:
    """Layer -> kind, of what an image declares and of its name.

    Layers are `synthetic` and `real` (declared so), `c2pa` (a manifest is there) and `file name`.
    """
    found: dict[str, str] = {}
    deciding = decided(list(layers))
    if deciding.origin != "unknown":
        kind = deciding.declared_by
        if kind == "generator":
            kind += f" {deciding.evidence.partition(':')[0]}"
        found[deciding.origin] = kind
    if any(layer.declared_by == "c2pa" for layer in layers):
        found["c2pa"] = "manifest present"
    name = generator_of_name(key)
    if name:
        found["file name"] = name
    return found


def _hidden(item: Any, rgb: np.ndarray) -> dict[str, str]:
    """Layer -> kind, of what is hidden in the pixels uint8 [H, W, 3]."""
    found: dict[str, str] = {}
    if text := hidden_text(item, rgb, Data().max_pixels):
        found["hidden text"] = text
    if can_carry(*rgb.shape[:2]) and (mark := read_mark(rgb)):
        found["watermark"] = mark
    return found


def _in_memory(item: Any) -> Item:
    """The bytes of a file that is not too large, so that it is read once; any other item as it is."""
    if isinstance(item, Path) and item.stat().st_size <= READ_WHOLE:
        return item.read_bytes()
    return item


def _thumbnail(rgb: np.ndarray) -> np.ndarray:
    """`square_thumbnail`, in less time for squares whose side is a multiple of that of a thumbnail."""
    height, width = rgb.shape[:2]
    if height == width and height % SIDE == 0 and height > SIDE:
        return np.asarray(Image.fromarray(rgb).reduce(height // SIDE))
    return square_thumbnail(rgb)


def _reason(error: Exception) -> str:
    return plain(" ".join(str(error).split()))[:LONGEST] or type(error).__name__
