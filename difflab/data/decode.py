"""From whatever holds an untrusted image to uint8 [size, size, channels]: header checks first, pixels only
afterwards.

Files, encoded bytes, PIL images and arrays all pass through here, so that one picture gives one array however
it came in.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.strip import png_chunks, without_metadata

# What an image may come as: a file, an encoded image, an image of PIL, uint8 [H, W], [H, W, 1] or [H, W, 3].
# None = an empty cell.
Item = Path | bytes | Image.Image | np.ndarray | None
T = TypeVar("T")

# Nothing else is tried: exotic decoders (ICO, EPS, PSD, ...) can hold more pixels than their header says, or
# run programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "DIB")
# Images that are not read. They must not pass as 'some other file': a user would train on a part of the set
# unknowingly.
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

TURNS = {  # EXIF orientation -> how the picture is put upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@cache
def suffixes() -> frozenset[str]:
    """All suffixes of FORMATS, as Pillow knows them, such as .jpg, .jpe and .jfif.

    MPO is a JPEG file with further ones behind it.
    """
    return frozenset(
        suffix for suffix, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")
    ) | {".jif"}


@dataclass(frozen=True)
class Header:
    """What an image says of itself. frames, metadata: what is not read of it, in words; "" = nothing. format:
    "" = no file.
    """

    width: int
    height: int
    grey: bool
    format: str = ""
    frames: str = ""
    metadata: str = ""


def look(item: Item, where: str, max_pixels: int, whole: bool = False) -> Header:
    """The header of an image. whole = decode it too, so that a damaged body is found.

    Raises DataError as `decode`.
    """
    if isinstance(item, np.ndarray):
        return Header(item.shape[1], item.shape[0], item.ndim == 2 or item.shape[2] == 1)

    def use(image: Image.Image, remarks: list[str]) -> Header:
        width, height, mode = image.width, image.height, image.mode
        if whole:
            _upright(image, remarks)
        else:
            if _metadata_follows(image):
                image.load()
            if image.format != "PNG" or image.info.get(
                "exif"
            ):  # a PNG file without would be decoded to look for more
                _turn(image, remarks)
        return Header(width, height, mode in GREY, image.format or "", _frames(image))

    header, remark = _used(item, where, max_pixels, use)
    return Header(header.width, header.height, header.grey, header.format, header.frames, remark)


def decode(item: Item, where: str, max_pixels: int, size: int, channels: int) -> np.ndarray:
    """uint8 [size, size, channels] of an image: upright, first frame, transparent parts on white, its central
    square.

    Metadata that cannot be parsed are left out. Raises DataError that names `where`: no image, a damaged one,
    more than `max_pixels`.
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


# ------------------------------------------------------------------------------------------------- opening
def _used(
    item: Path | bytes | Image.Image | None,
    where: str,
    max_pixels: int,
    use: Callable[[Image.Image, list[str]], T],
) -> tuple[T, str]:
    """(what `use` makes of the image, what was wrong with its metadata).

    Everything that goes wrong is a DataError that names `where`.
    """
    if item is None:
        raise DataError(
            f"{where} holds no image bytes; export the images into the file, or set data.bad_images=skip"
        )
    try:
        return _attempt(item, where, max_pixels, use)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{where}: more pixels than Pillow will ever open ({error}); remove or shrink it"
        ) from error
    except Exception as error:  # decoders of damaged files raise nearly every type there is
        unknown = "cannot identify" in str(error)
        reason = " ".join(str(error).split()) or type(error).__name__
        try:
            file = _file_of(item) if isinstance(item, Image.Image) else item
            bare = None if file is None else without_metadata(file)
            if bare is not None:
                return _attempt(bare, where, max_pixels, use)[0], "cannot be parsed" if unknown else reason
        except DataError:
            raise
        except Exception:
            pass  # it was not the metadata: the first error says more
        if unknown:
            reason = "not an image in a format that is read (" + ", ".join(FORMATS) + ")"
        raise DataError(
            f"{where}: cannot be decoded: {reason}; repair or remove it, or set data.bad_images=skip"
        ) from error


def _attempt(
    item: Path | bytes | Image.Image, where: str, max_pixels: int, use: Callable[[Image.Image, list[str]], T]
) -> tuple[T, str]:
    remarks: list[str] = []
    # Pillow says by warnings what it could not parse, and warns of bombs from 89 million pixels on, whatever
    # the user allowed.
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if isinstance(item, Image.Image):
            _check_size(item, where, max_pixels)
            result = use(item, remarks)
        else:
            with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item, formats=FORMATS) as image:
                _check_size(image, where, max_pixels)
                result = use(image, remarks)
    remarks += [" ".join(str(warning.message).split()) for warning in said if warning.category is UserWarning]
    return result, remarks[0] if remarks else ""


def _file_of(image: Image.Image) -> bytes | None:
    """What lies in the file that an image of PIL still has open."""
    handle = getattr(image, "fp", None)
    if handle is None:
        return None
    handle.seek(0)
    return handle.read()


def _check_size(image: Image.Image, where: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height}"
        raise DataError(
            f"{where}: {size} pixels exceed data.max_pixels={max_pixels}; remove or shrink it, or raise "
            "data.max_pixels"
        )


def _frames(image: Image.Image) -> str:
    """The frames of an image that has several, in words."""
    try:
        if not getattr(image, "is_animated", False) or image.tell():
            return ""
        return f"{image.n_frames} frames"  # type: ignore[attr-defined]
    except Exception:  # only the first one is read
        return "damaged frames after the first"


def _metadata_follows(image: Image.Image) -> bool:
    """Whether a PNG file has texts or EXIF behind its pixels, which Pillow reads with them."""
    if image.format != "PNG" or getattr(image, "fp", None) is None:
        return False
    at = image.fp.tell()  # type: ignore[attr-defined]
    kinds = [kind for kind, _, _ in png_chunks(image.fp)]  # type: ignore[attr-defined]
    image.fp.seek(at)  # type: ignore[attr-defined]
    after = kinds[kinds.index(b"IDAT") :] if b"IDAT" in kinds else []
    return any(kind[0] & 32 and kind not in (b"fcTL", b"fdAT") for kind in after)


# --------------------------------------------------------------------------------------------------- pixels
def _upright(image: Image.Image, remarks: list[str]) -> Image.Image:
    """Mode L or RGB, turned as EXIF says."""
    image.load()
    turn = _turn(image, remarks)
    flat = flatten(image)
    return flat if turn is None else flat.transpose(turn)


def _turn(image: Image.Image, remarks: list[str]) -> Image.Transpose | None:
    """None = it is upright. What is no orientation, or cannot be parsed, is remarked on."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:
        remarks.append(f"EXIF: {' '.join(str(error).split()) or type(error).__name__}")
        return None
    if orientation not in TURNS and orientation not in (0, 1):
        remarks.append(f"EXIF: orientation {str(orientation)[:20]!a}")
    return TURNS.get(orientation)


def flatten(image: Image.Image) -> Image.Image:
    """Mode L or RGB, 8 bit, transparent parts on white.

    Raises ValueError for numbers that have no agreed white.
    """
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError(f"32-bit pixels (mode {image.mode}) have no agreed white; save it with 8 or 16 bits")
    if image.mode in SIXTEEN_BIT:
        values = np.asarray(image).astype(np.int64)
        if values.size and not 0 <= values.min() <= values.max() <= 65535:
            raise ValueError(
                f"32-bit pixels (mode {image.mode}) have no agreed white; save it with 8 or 16 bits"
            )
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
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
    """uint8 [size, size, channels] from uint8 [H, W] or [H, W, 3]; a copy."""
    if values.shape == ((size, size) if channels == 1 else (size, size, channels)):
        return np.array(values).reshape(size, size, channels)
    return fit(Image.fromarray(np.ascontiguousarray(values)), size, channels)


def channels_of(data: Data, own: int) -> int:
    """1 or 3: what data.color asks for, or the source's `own` number."""
    return {"auto": own, "L": 1, "RGB": 3}[data.color]
