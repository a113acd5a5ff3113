"""From an untrusted image file to uint8 [size, size, channels]: header checks first, pixels only afterwards."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from difflab.config import Data
from difflab.data.account import Account
from difflab.errors import DataError

# Nothing else is tried: exotic decoders (ICO, EPS, PSD, ...) can hold more pixels than their header says, or run programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
# Images that are not read. They must not pass as 'some other file': a user would train on a part of the set unknowingly.
FOREIGN_SUFFIXES = frozenset({".avif", ".heic", ".heif", ".jxl", ".jp2", ".svg", ".ico", ".psd", ".exr", ".tga"})

SIXTEEN_BIT = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I"})
GREY = SIXTEEN_BIT | {"1", "L", "LA", "La"}
WITH_ALPHA = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})


@dataclass(frozen=True)
class Header:
    """What the header of an image file says; no pixel was decoded for it."""

    width: int
    height: int
    grey: bool


@contextmanager
def _opened(file: Path | bytes, where: str, max_pixels: int) -> Iterator[Image.Image]:
    """The image with only its header read. Everything that goes wrong inside is raised as a DataError naming `where`."""
    try:
        # Pillow's own bomb warning stands at 89 million pixels whatever the user allowed; data.max_pixels decides here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    size = f"{image.width} x {image.height}"
                    raise DataError(f"{where}: {size} pixels exceed data.max_pixels={max_pixels}; remove or shrink it, or raise data.max_pixels")
                yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{where}: more pixels than Pillow will ever open ({error}); remove or shrink it") from error
    except Exception as error:  # decoders of damaged files raise nearly every type there is
        reason = (
            "not an image in a format that is read (" + ", ".join(FORMATS) + ")"
            if "cannot identify" in str(error)
            else str(error) or type(error).__name__
        )
        raise DataError(f"{where}: cannot be decoded: {reason}; repair or remove it, or set data.bad_images=skip") from error


def read_header(file: Path | bytes, where: str, max_pixels: int) -> Header:
    """Size and colour from the header alone. Raises DataError that names `where`: no image, or above `max_pixels`."""
    with _opened(file, where, max_pixels) as image:
        return Header(image.width, image.height, image.mode in GREY)


def decode(file: Path | bytes, where: str, max_pixels: int, size: int, channels: int) -> np.ndarray:
    """uint8 [size, size, channels] of an image file. `where` names it in the DataError of a damaged or too large one."""
    with _opened(file, where, max_pixels) as image:
        image.load()
        return fit(flatten(ImageOps.exif_transpose(image)), size, channels)


def flatten(image: Image.Image) -> Image.Image:
    """Mode L or RGB, 8 bit, transparent parts on white. Raises ValueError for numbers that have no agreed white."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError(f"32-bit pixels (mode {image.mode}) have no agreed white; save it with 8 or 16 bits")
    if image.mode in SIXTEEN_BIT:
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(((values * 255 + 32767) // 65535).clip(0, 255).astype(np.uint8))
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("L" if image.mode in GREY else "RGB")
    return image.convert("L" if image.mode in GREY else "RGB")


def fit(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """uint8 [size, size, channels]: the central square of a flattened image, resized with antialiasing."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.convert("L" if channels == 1 else "RGB").crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.array(image).reshape(size, size, channels)


def fit_array(values: np.ndarray, size: int, channels: int) -> np.ndarray:
    """uint8 [size, size, channels] from uint8 [H, W] or [H, W, 3]."""
    if values.shape == ((size, size) if channels == 1 else (size, size, channels)):
        return values.reshape(size, size, channels)
    return fit(Image.fromarray(values), size, channels)


@dataclass(frozen=True)
class Survey:
    """What a first look at all images of a set found.

    kept: positions of the usable images; size, channels: what they will be read as; account: what became of all of them.
    """

    kept: list[int]
    size: int
    channels: int
    account: Account


def survey(files: Iterable[tuple[str, Path | bytes | None]], data: Data, where: str) -> Survey:
    """Look at the header of every (key, file); None stands for a file without content.

    Under data.bad_images=skip every image is decoded fully once, so that what is counted now can be read later; otherwise
    a damaged body raises when it is read. Raises DataError: the first bad image, none left, no common size.
    """
    kept, account = [], Account()
    sizes: dict[tuple[int, int], str] = {}
    grey, lost_area = True, 0.0
    for position, (key, file) in enumerate(files):
        account.found += 1
        try:
            if file is None:
                raise DataError(f"{where}: {key} holds no image bytes; export the images into the file, or set data.bad_images=skip")
            name = f"{where}: image {key}"
            header = read_header(file, name, data.max_pixels)
            if data.bad_images == "skip":
                decode(file, name, data.max_pixels, data.image_size or 8, 3)
        except DataError as error:
            if data.bad_images != "skip":
                raise
            account.add("skipped", key, str(error))
            continue
        kept.append(position)
        if header.width != header.height:
            account.add("cropped", key, f"{header.width} x {header.height}")
            lost_area += 1 - min(header.width, header.height) / max(header.width, header.height)
        sizes.setdefault((header.width, header.height), key)
        grey = grey and header.grey
    if not kept:
        bad = account.entries.get("skipped")
        found = f" ({bad.count} were unusable, the first: {bad.first[0][1]})" if bad else ""
        raise DataError(f"{where} holds no image that can be read{found}; images end in {', '.join(sorted(SUFFIXES))}")
    account.read = len(kept)
    account.lost_area = lost_area / max(1, account.count("cropped"))
    return Survey(kept, data.image_size or _common_side(sizes, where), channels_of(data, 1 if grey else 3), account)


def _common_side(sizes: dict[tuple[int, int], str], where: str) -> int:
    (first, key), *others = sizes.items()
    if others:
        other, other_key = others[0]
        raise DataError(
            f"{where}: images differ in size ({key} is {first[0]} x {first[1]}, {other_key} is {other[0]} x {other[1]}); "
            "say which size to use, for example data.image_size=64"
        )
    if first[0] != first[1]:
        raise DataError(
            f"{where}: images are {first[0]} x {first[1]}, not square; say which size to crop and resize to, for example data.image_size=64"
        )
    if not 4 <= first[0] <= 4096:
        raise DataError(f"{where}: images are {first[0]} x {first[1]}; say which size to use (4 to 4096), for example data.image_size=64")
    return first[0]


def channels_of(data: Data, own: int) -> int:
    """1 or 3: what data.color asks for, or the source's `own` number."""
    return {"auto": own, "L": 1, "RGB": 3}[data.color]
