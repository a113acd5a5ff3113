"""Remove the metadata of an image file, so that pixels can be read although texts, profiles or comments are
damaged.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PNG, JPEG, RIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"RIFF"
# TIFF tags that describe the pixels; every other tag is metadata
TIFF_TAGS = frozenset(
    (
        *range(254, 260),
        262,
        266,
        273,
        274,
        277,
        278,
        279,
        284,
        292,
        293,
        317,
        320,
        *range(322, 326),
        332,
        338,
        339,
        347,
    )
)
TIFF_TAGS |= {*range(512, 522), *range(529, 533)}  # JPEG in TIFF


def without_metadata(file: Path | bytes) -> bytes | None:
    """The file without metadata except EXIF, which holds the orientation. None for other formats and other
    files.

    Only whole chunks or segments are dropped. Pixel data is not changed, so damaged pixels stay damaged.
    Later frames are dropped.
    """
    handle: BinaryIO = io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb")  # noqa: SIM115
    with handle:
        start = handle.read(8)
        if start == PNG:
            return _png(handle)
        handle.seek(0)
        if start[:2] == JPEG:
            return _jpeg(handle.read())
        if start[:4] == RIFF:
            return _webp(handle.read())
        if start[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(handle.read(), "<" if start[:2] == b"II" else ">")
    return None


def png_chunks(handle: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its data starts, length) of the chunks of a PNG file."""
    handle.seek(len(PNG))
    while len(head := handle.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        start = handle.tell()
        yield kind, start, length
        if kind == b"IEND":
            return
        handle.seek(start + length + 4)


def _png(handle: BinaryIO) -> bytes:
    parts = [PNG]
    for kind, start, length in png_chunks(handle):
        if kind[0] & 32 and kind not in (
            b"tRNS",
            b"eXIf",
        ):  # a lower-case first letter marks a chunk that the pixels do not need
            continue
        handle.seek(start)
        data, check = handle.read(length), handle.read(4)
        if kind != b"eXIf" or check == struct.pack(">I", zlib.crc32(kind + data)):
            parts.append(struct.pack(">I", length) + kind + data + check)
    return b"".join(parts)


def _jpeg(data: bytes) -> bytes:
    parts, at = [JPEG], 2
    while data[at : at + 1] == b"\xff" and len(data) >= at + 4:
        if data[at + 1] == 0xFF:  # fill byte
            at += 1
            continue
        marker, length = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        if marker == 0xDA:  # the pixels
            break
        content = data[at + 4 : at + 2 + length]
        if not _is_metadata_of_jpeg(marker, content):
            parts.append(data[at : at + 2 + length])
        at += 2 + max(length, 2)
    return b"".join([*parts, data[at:]])


def _is_metadata_of_jpeg(marker: int, content: bytes) -> bool:
    """APP0 and APP14 define the colour space where they have the length that libjpeg expects.

    COM and all other APP segments are metadata.
    """
    if marker == 0xE0:
        return len(content) < 14
    if marker == 0xEE:
        return len(content) < 12
    if marker == 0xE1:
        return not content.startswith(b"Exif\0\0")
    return marker == 0xFE or 0xE0 <= marker <= 0xEF


def _webp(data: bytes) -> bytes:
    parts, at = [b"WEBP"], 12
    while at + 8 <= len(data):
        kind, length = struct.unpack("<4sI", data[at : at + 8])
        chunk = data[at : at + 8 + length + length % 2]
        if kind == b"VP8X" and length >= 10:
            chunk = (
                chunk[:8] + bytes([chunk[8] & ~0x24]) + chunk[9:]
            )  # clear the flags of ICC profile and XMP, which are dropped
            parts.append(chunk)
        elif kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF") or (
            kind == b"EXIF" and at + 8 + length <= len(data)
        ):
            parts.append(chunk)
        at += 8 + length + length % 2
    body = b"".join(parts)
    return RIFF + struct.pack("<I", len(body)) + body


def _tiff(data: bytes, order: str) -> bytes | None:
    """A copy of the first directory with the tags of TIFF_TAGS only, appended to the file."""
    start = struct.unpack(f"{order}I", data[4:8])[0] if len(data) >= 8 else len(data)
    if len(data) < start + 2:
        return None
    count = struct.unpack(f"{order}H", data[start : start + 2])[0]
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    kept = [
        entry
        for entry in entries
        if len(entry) == 12 and struct.unpack(f"{order}H", entry[:2])[0] in TIFF_TAGS
    ]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:4] + struct.pack(f"{order}I", len(data)) + data[8:] + directory
