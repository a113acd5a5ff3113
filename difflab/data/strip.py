"""Remove the metadata of an image file, so that its pixels can be read although the metadata is damaged."""

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
TIFF_TAGS |= {*range(512, 522), *range(529, 533)}  # tags for JPEG compression


def without_metadata(file: Path | bytes) -> bytes | None:
    """The content of a PNG, JPEG, WebP or TIFF file without its metadata; None for other files.

    EXIF is kept, because it contains the orientation. Only whole chunks, segments or tags are removed, so the
    data of the pixels is unchanged. Frames after the first may be removed too.
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
    """Yield the kind, the offset of the data and the length of the data of each chunk of a PNG file."""
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
        # A chunk is ancillary, not needed for the pixels, if the first letter of its name is lower case.
        if kind[0] & 32 and kind not in (b"tRNS", b"eXIf"):
            continue
        handle.seek(start)
        data, check = handle.read(length), handle.read(4)
        if kind != b"eXIf" or check == struct.pack(">I", zlib.crc32(kind + data)):
            parts.append(struct.pack(">I", length) + kind + data + check)
    return b"".join(parts)


def _jpeg(data: bytes) -> bytes:
    parts, offset = [JPEG], 2
    while data[offset : offset + 1] == b"\xff" and len(data) >= offset + 4:
        if data[offset + 1] == 0xFF:  # fill byte
            offset += 1
            continue
        marker, length = data[offset + 1], struct.unpack(">H", data[offset + 2 : offset + 4])[0]
        if marker == 0xDA:  # start of scan: the pixels follow
            break
        content = data[offset + 4 : offset + 2 + length]
        if not _is_metadata_of_jpeg(marker, content):
            parts.append(data[offset : offset + 2 + length])
        offset += 2 + max(length, 2)
    return b"".join([*parts, data[offset:]])


def _is_metadata_of_jpeg(marker: int, content: bytes) -> bool:
    """Whether a segment of a JPEG file is metadata: COM, and all APP segments except EXIF, APP0 and APP14.

    APP0 and APP14 define the colour space. They are metadata if they are shorter than libjpeg expects.
    """
    if marker == 0xE0:
        return len(content) < 14
    if marker == 0xEE:
        return len(content) < 12
    if marker == 0xE1:
        return not content.startswith(b"Exif\0\0")
    return marker == 0xFE or 0xE0 <= marker <= 0xEF


def _webp(data: bytes) -> bytes:
    parts, offset = [b"WEBP"], 12
    while offset + 8 <= len(data):
        kind, length = struct.unpack("<4sI", data[offset : offset + 8])
        chunk = data[offset : offset + 8 + length + length % 2]
        if kind == b"VP8X" and length >= 10:
            flags = chunk[8] & ~0x24  # without the flags of the ICC profile and of XMP, which are removed
            parts.append(chunk[:8] + bytes([flags]) + chunk[9:])
        elif kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF") or (
            kind == b"EXIF" and offset + 8 + length <= len(data)
        ):
            parts.append(chunk)
        offset += 8 + length + length % 2
    body = b"".join(parts)
    return RIFF + struct.pack("<I", len(body)) + body


def _tiff(data: bytes, order: str) -> bytes | None:
    """The file with a new first directory at its end, which contains only the tags of TIFF_TAGS."""
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
