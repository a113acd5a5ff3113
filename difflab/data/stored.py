"""All images of a set as they are stored, each in its own size. Published protocols read this way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.core.files import existing
from difflab.data.decode import as_stored, suffixes
from difflab.data.image_sets import listing_of
from difflab.data.imagefolder import Files
from difflab.data.listing import Items
from difflab.data.walk import inside_folder, is_image, suffix_of, walk

MAX_PIXELS = Data().max_pixels


@dataclass(frozen=True)
class StoredImages:
    """N images in a fixed order. Nothing is cropped, turned or resized, and none is left out.

    Attributes:
        keys: name of each image. Files of a folder: paths below it, in the order of their characters.
        items: position -> what is to be decoded.
        where: names the set in errors.
        is_folder: whether the keys are paths of files.
    """

    keys: list[str]
    items: Items
    where: str
    is_folder: bool

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3]. Raises DataError that names an image that cannot be decoded."""
        return as_stored(self.items[index], f"{self.where}: image {self.keys[index]}", MAX_PIXELS)


def open_stored(what: Any, side: str, notes: list[str]) -> StoredImages:
    """All images of a side.

    Args:
        what: as for `difflab.data.image_sets.open_sides`. Of a folder every image file at any depth is taken;
            captions and classes are not read.
        side: names the set in errors.
        notes: gets a sentence for what is special about the set.

    Raises DataError for a side without images.
    """
    if isinstance(what, (str, Path)) and Path(what).expanduser().is_dir():
        root = inside_folder(existing(Path(what), side), f"imagefolder:{what}")
        files = walk(root)
        keys = [key for key in files if is_image(key)]
        if keys or not any(suffix_of(key) == ".parquet" for key in files):
            if not keys:
                endings = ", ".join(sorted(suffixes()))
                raise DataError(f"{side}: {what} holds no image; images end in {endings}")
            return StoredImages(keys, Files(root, keys), side, True)
    listing = listing_of(what, side, notes)
    return StoredImages(listing.keys, listing.items, side, False)
