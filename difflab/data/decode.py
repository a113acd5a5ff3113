"""Decode one untrusted image to uint8 [H, W, channels].

The header is checked before pixels are decoded. All images are decoded here: files, encoded bytes, PIL
images and arrays. So the same picture always gives the same array.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.core.size import Size, crop_of
from difflab.data.strip import png_chunks, without_metadata

# One image: a path, the bytes of an encoded image, a PIL image, or a uint8 array of the shape [H, W],
# [H, W, 1] or [H, W, 3]. None is an empty cell of a table.
Item = Path | bytes | Image.Image | np.ndarray | None
T = TypeVar("T")

# Only these formats are read. A file of another format (ICO, EPS, PSD, ...) can hold more pixels than its
# header says, and some decoders run external programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "DIB")
# Image formats that are not supported. Such a file is an error. If it were ignored, the user would train on a
# part of the set without noticing.
FOREIGN_SUFFIXES = frozenset(
    [
        ".avif",
        ".avifs",
        ".heic",
        ".heif",
        ".hif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".j2c",
        ".jpc",
        ".jpf",
        ".jpx",
        ".svg",
        ".ico",
        ".psd",
        ".exr",
        ".hdr",
        ".tga",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
    ]
)

SIXTEEN_BIT = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I"})
GREY = SIXTEEN_BIT | {"1", "L", "LA", "La"}
WITH_ALPHA = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})

TURNS = {  # EXIF orientation -> the transposition that makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_THE_SIDE = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)
"""The transpositions that exchange width and height."""


@cache
def suffixes() -> frozenset[str]:
    """All file suffixes that Pillow registers for FORMATS, for example .jpg, .jpe and .jfif.

    MPO is included: an MPO file is a JPEG file that further JPEG images follow.
    """
    return frozenset(
        suffix for suffix, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")
    ) | {".jif"}


@dataclass(frozen=True)
class Header:
    """Properties of an image that are known without its pixels.

    width, height: of the upright image, in pixels. grey: the image has no colour. format: the name of the
    format in Pillow; "" for arrays and for PIL images without a file. frames: a description of the frames
    that are not read; "" if there is only one. metadata: a description of the damaged metadata; "" if there
    are none.
    """

    width: int
    height: int
    grey: bool
    format: str = ""
    frames: str = ""
    metadata: str = ""
    pixels: np.ndarray | None = None


def look(item: Item, where: str, max_pixels: int, whole: bool = False) -> Header:
    """The header of an image. With `whole` the pixels are decoded too, so that damaged pixels are found.

    Raises the same DataError as `decode`.
    """
    if isinstance(item, np.ndarray):
        return Header(item.shape[1], item.shape[0], item.ndim == 2 or item.shape[2] == 1)

    def use(image: Image.Image, remarks: list[str]) -> Header:
        width, height, mode, pixels = image.width, image.height, image.mode, None
        if whole:
            pixels = np.asarray(_upright(image, remarks))
            height, width = pixels.shape[:2]
        else:
            if _metadata_follows(image):
                image.load()
            # For a PNG file without EXIF in its header, Pillow would decode all pixels to search for EXIF.
            has_exif = image.format != "PNG" or image.info.get("exif")
            if has_exif and _turn(image, remarks) in ON_THE_SIDE:
                width, height = height, width
        return Header(width, height, mode in GREY, image.format or "", _frames(image), pixels=pixels)

    header, remark = _used(item, where, max_pixels, use)
    return replace(header, metadata=remark)


def decode(item: Item, where: str, max_pixels: int, size: Size, channels: int) -> np.ndarray:
    """The central part of an image with the aspect ratio of `size`, (H, W), resized: uint8 [H, W, channels].

    Only the first frame is read. The image is turned upright as EXIF says, and transparent parts become
    white. Damaged metadata is ignored.

    Raises DataError that names `where` if the image is missing or damaged, or has more than `max_pixels`
    pixels.
    """
    if isinstance(item, np.ndarray):
        return fit_array(item[..., 0] if item.ndim == 3 and item.shape[2] == 1 else item, size, channels)
    return _used(
        item, where, max_pixels, lambda image, remarks: fit(_upright(image, remarks), size, channels)
    )[0]


def as_stored(item: Item, where: str, max_pixels: int) -> np.ndarray:
    """uint8 [H, W, 3] of an image in its own size, as Pillow's `convert("RGB")` alone makes it.

    This is how torch-fidelity, clean-fid and pytorch-fid read images. EXIF does not turn them, colours under
    transparent parts count, and 16-bit grey values above 255 are white. Raises DataError as `decode`.
    """
    if isinstance(item, np.ndarray):
        values = item if item.ndim == 3 else item[..., None]
        return np.array(np.broadcast_to(values, (*values.shape[:2], 3)))
    return _used(item, where, max_pixels, lambda image, remarks: np.array(image.convert("RGB")))[0]


def in_colour(pixels: np.ndarray) -> np.ndarray:
    """Pixels uint8 [H, W], [H, W, 1] or [H, W, 3] as [H, W, 3]."""
    values = pixels if pixels.ndim == 3 else pixels[..., None]
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


# ------------------------------------------------------------------------------------------------- opening
def _used(
    item: Path | bytes | Image.Image | None,
    where: str,
    max_pixels: int,
    use: Callable[[Image.Image, list[str]], T],
) -> tuple[T, str]:
    """The result of `use`, and a description of damaged metadata ("" = none is damaged).

    Every failure is raised as a DataError that names `where`.
    """
    if item is None:
        raise DataError(
            f"{where} has no image bytes; write the images into the file, or set data.bad_images=skip"
        )
    try:
        return _attempt(item, where, max_pixels, use)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{where} has more pixels than Pillow allows ({error}); remove the image or make it smaller"
        ) from error
    except Exception as error:  # decoders raise exceptions of almost any type for damaged files
        unknown = "cannot identify" in str(error)
        reason = " ".join(str(error).split()) or type(error).__name__
        try:
            file = _file_of(item) if isinstance(item, Image.Image) else item
            pixels_only = None if file is None else without_metadata(file)
            if pixels_only is not None:
                result, _ = _attempt(pixels_only, where, max_pixels, use)
                return result, "cannot be parsed" if unknown else reason
        except DataError:
            raise
        except Exception:
            pass  # the metadata was not the cause: the first error is more informative
        if unknown:
            reason = f"not an image in a supported format ({', '.join(FORMATS)})"
        raise DataError(
            f"{where}: cannot be decoded: {reason}; repair or remove the image, or set data.bad_images=skip"
        ) from error


def _attempt(
    item: Path | bytes | Image.Image, where: str, max_pixels: int, use: Callable[[Image.Image, list[str]], T]
) -> tuple[T, str]:
    """Open the image and call `use` on it. Returns as `_used`."""
    remarks: list[str] = []
    # Pillow warns about metadata that it cannot parse. It also warns about every image of more than 89
    # million pixels, which data.max_pixels may allow.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if isinstance(item, Image.Image):
            _check_size(item, where, max_pixels)
            result = use(item, remarks)
        else:
            with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item, formats=FORMATS) as image:
                _check_size(image, where, max_pixels)
                result = use(image, remarks)
    for warning in caught:
        if warning.category is UserWarning:
            remarks.append(" ".join(str(warning.message).split()))
    return result, remarks[0] if remarks else ""


def _file_of(image: Image.Image) -> bytes | None:
    """The content of the file that a PIL image still has open; None if it has none."""
    handle = getattr(image, "fp", None)
    if handle is None:
        return None
    handle.seek(0)
    return handle.read()


def _check_size(image: Image.Image, where: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height}"
        raise DataError(
            f"{where}: {size} pixels exceed data.max_pixels={max_pixels}; remove the image, make it smaller, "
            "or increase data.max_pixels"
        )


def _frames(image: Image.Image) -> str:
    """A description of the frames of an image with several; "" for an image with one."""
    try:
        if not getattr(image, "is_animated", False) or image.tell():
            return ""
        return f"{image.n_frames} frames"  # type: ignore[attr-defined]
    except Exception:  # only the first one is read
        return "damaged frames after the first"


def _metadata_follows(image: Image.Image) -> bool:
    """Whether a PNG file has metadata after its pixels. Pillow reads this metadata only with the pixels."""
    if image.format != "PNG" or getattr(image, "fp", None) is None:
        return False
    position = image.fp.tell()  # type: ignore[attr-defined]
    kinds = [kind for kind, _, _ in png_chunks(image.fp)]  # type: ignore[attr-defined]
    image.fp.seek(position)  # type: ignore[attr-defined]
    after = kinds[kinds.index(b"IDAT") :] if b"IDAT" in kinds else []
    return any(kind[0] & 32 and kind not in (b"fcTL", b"fdAT") for kind in after)


# --------------------------------------------------------------------------------------------------- pixels
def _upright(image: Image.Image, remarks: list[str]) -> Image.Image:
    """The image in mode L or RGB, turned as EXIF says."""
    image.load()
    turn = _turn(image, remarks)
    flat = flatten(image)
    return flat if turn is None else flat.transpose(turn)


def _turn(image: Image.Image, remarks: list[str]) -> Image.Transpose | None:
    """The transposition that makes the image upright; None if it is upright.

    An unknown orientation or damaged EXIF data is added to `remarks`.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:
        remarks.append(f"EXIF: {' '.join(str(error).split()) or type(error).__name__}")
        return None
    if orientation not in TURNS and orientation not in (0, 1):
        remarks.append(f"EXIF: orientation {str(orientation)[:20]!a}")
    return TURNS.get(orientation)


def flatten(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB with 8 bits per channel. Transparent parts become white.

    Raises ValueError for 32-bit pixels, because no standard says which value is white.
    """
    unscaled = (
        f"32-bit pixels (mode {image.mode}) have no standard white value; save the image with 8 or 16 bits"
    )
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError(unscaled)
    if image.mode in SIXTEEN_BIT:
        values = np.asarray(image).astype(np.int64)
        if values.size and not 0 <= values.min() <= values.max() <= 65535:
            raise ValueError(unscaled)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("L" if image.mode in GREY else "RGB")
    return image.convert("L" if image.mode in GREY else "RGB")


def fit(image: Image.Image, size: Size, channels: int) -> np.ndarray:
    """The central part of a flattened image with the aspect ratio of `size`, (H, W), resized by Lanczos:
    uint8 [H, W, channels].
    """
    height, width = crop_of(image.height, image.width, size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.convert("L" if channels == 1 else "RGB").crop((left, top, left + width, top + height))
    if (height, width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return np.array(image).reshape(*size, channels)


def fit_array(values: np.ndarray, size: Size, channels: int) -> np.ndarray:
    """The same as `fit` for an array, uint8 [h, w] or [h, w, 3]. The result is a copy."""
    if values.shape == (size if channels == 1 else (*size, channels)):
        return np.array(values).reshape(*size, channels)
    return fit(Image.fromarray(np.ascontiguousarray(values)), size, channels)


def channels_of(data: Data, source_channels: int) -> int:
    """The number of channels that data.color selects, 1 or 3. "auto" selects `source_channels`."""
    return {"auto": source_channels, "L": 1, "RGB": 3}[data.color]
