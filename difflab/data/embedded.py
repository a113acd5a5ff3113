"""The metadata that an image file carries: text chunks, EXIF, XMP, and whether it holds a C2PA manifest.

Only headers are read; no pixel is decoded, and no text is parsed as XML. Hostile files cost little: a block
is cut at `BLOCK` bytes (also when it is inflated), a file has at most `BLOCKS` blocks and `TOTAL` bytes of
metadata, and damaged parts are left out. No function here raises for the content of a file.

Where the blocks are: PNG chunks tEXt, zTXt, iTXt and eXIf (PNG specification, third edition) and caBX (C2PA
specification, embedding manifests into PNG); JPEG segments APP1 (EXIF 2.32; XMP and extended XMP, XMP
specification part 3) and APP11 (JUMBF, ISO 19566-5); WebP chunks EXIF, XMP and C2PA (WebP container
specification, C2PA); TIFF tags.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from difflab.data.strip import JPEG, PNG, RIFF, png_chunks

BLOCK = 2**20
"""Largest number of bytes of a block that are read, and of a compressed text that are inflated."""
TOTAL = 4 * 2**20
"""Largest number of bytes of metadata that are read from one file."""
BLOCKS = 2**17
"""Largest number of blocks of a file that are looked at, those of the pixels included."""
XMP_CHUNK = "XML:com.adobe.xmp"
EXTENDED_SEGMENT = b"http://ns.adobe.com/xmp/extension/\0"
EXTENDED = re.compile(rb"""HasExtendedXMP\s*(?:=\s*["']|>)\s*([0-9A-Fa-f]{32})""")
XMP_SEGMENT, EXIF_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0", b"Exif\0\0"
EXIF_TAGS = {
    270: "ImageDescription",
    271: "Make",
    272: "Model",
    305: "Software",
    700: "XMP",
    0x9286: "UserComment",
    0x927C: "MakerNote",
}
EXIF_DIRECTORY, C2PA_TAG = 0x8769, 0xCD41
TEXT_KINDS = (1, 2, 7)  # BYTE, ASCII, UNDEFINED


@dataclass
class Embedded:
    """The metadata of one image file. All texts come from the file, so nothing in them can be trusted.

    Attributes:
        texts: keyword -> text of the text chunks of a PNG file. Of chunks with one keyword the first counts.
        exif: name of `EXIF_TAGS` -> text.
        xmp: the XMP packet as text, with the extended one of a JPEG file behind it; "" if there is none.
        c2pa: whether a C2PA manifest is present. It is not read here.
    """

    texts: dict[str, str] = field(default_factory=dict)
    exif: dict[str, str] = field(default_factory=dict)
    xmp: str = ""
    c2pa: bool = False


def read_embedded(item: Path | bytes) -> Embedded:
    """The metadata of a PNG, JPEG, WebP or TIFF file, or of its bytes; nothing for any other file.

    A file that cannot be opened has no metadata here; decoding it raises the error.
    """
    found = Embedded()
    try:
        with io.BytesIO(item) if isinstance(item, bytes) else open(item, "rb") as handle:
            _read(handle, found)
    except (OSError, ValueError, struct.error):  # what was found before the damage is kept
        pass
    return found


def _read(handle: BinaryIO, found: Embedded) -> None:
    start = handle.read(12)
    if start.startswith(PNG):
        _read_png(handle, found)
    elif start.startswith(JPEG):
        _read_jpeg(handle, found)
    elif start[:4] == RIFF and start[8:12] == b"WEBP":
        _read_webp(handle, found)
    elif start[:4] in (b"II*\0", b"MM\0*"):
        _read_exif(handle, found)


class _Budget:
    """Reads blocks of metadata until `TOTAL` bytes are read."""

    def __init__(self, handle: BinaryIO):
        self.handle, self.left = handle, TOTAL

    def block(self, start: int, length: int) -> bytes:
        """At most `BLOCK` bytes of the block at `start`."""
        self.handle.seek(start)
        data = self.handle.read(max(0, min(length, BLOCK, self.left)))
        self.left -= len(data)
        return data


# ---------------------------------------------------------------------------------------------------- formats
def _read_png(handle: BinaryIO, found: Embedded) -> None:
    budget = _Budget(handle)
    for number, (kind, start, length) in enumerate(png_chunks(handle)):
        if number >= BLOCKS or not budget.left:
            return
        if kind == b"caBX":
            found.c2pa = True
        elif kind == b"eXIf":
            _read_exif(io.BytesIO(budget.block(start, length)), found)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, text = _text_chunk(kind, budget.block(start, length))
            if keyword == XMP_CHUNK:
                found.xmp = found.xmp or text
            else:
                found.texts.setdefault(keyword, text)


def _text_chunk(kind: bytes, data: bytes) -> tuple[str, str]:
    """The keyword and the text of a text chunk."""
    keyword, _, rest = data.partition(b"\0")
    name = keyword[:80].decode("latin-1")
    if kind == b"tEXt":
        # The specification says Latin-1; several generators write UTF-8.
        return name, _decoded(rest)
    if kind == b"zTXt":
        return name, _decoded(_inflated(rest[1:]))
    compressed, rest = rest[:1] == b"\1", rest[2:]
    text = rest.partition(b"\0")[2].partition(b"\0")[2]  # after the language and the translated keyword
    return name, _decoded(_inflated(text) if compressed else text)


def _inflated(data: bytes) -> bytes:
    """At most `BLOCK` bytes of a zlib stream; those before the damage of a damaged one are lost."""
    try:
        return zlib.decompressobj().decompress(data, BLOCK)
    except zlib.error:
        return b""


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _segments(handle: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """The marker, offset and length of the content of each segment of a JPEG file before its pixels."""
    position = 2
    for _ in range(BLOCKS):
        handle.seek(position)
        head = handle.read(4)
        if len(head) < 4 or head[0] != 0xFF:
            return
        if head[1] == 0xFF:  # fill byte
            position += 1
            continue
        length = struct.unpack(">H", head[2:])[0]
        if head[1] == 0xDA:  # start of scan: the pixels follow
            return
        yield head[1], position + 4, max(0, length - 2)
        position += 2 + max(2, length)


def _read_jpeg(handle: BinaryIO, found: Embedded) -> None:
    budget, extension = _Budget(handle), _ExtendedXmp()
    for marker, start, length in _segments(handle):
        if not budget.left:
            break
        if marker == 0xE1:
            data = budget.block(start, length)
            if data.startswith(EXIF_SEGMENT):
                _read_exif(io.BytesIO(data[len(EXIF_SEGMENT) :]), found)
            elif data.startswith(XMP_SEGMENT):
                if not found.xmp:
                    found.xmp = _xmp_text(data[len(XMP_SEGMENT) :])
                    extension.expect(data)
            elif data.startswith(EXTENDED_SEGMENT):
                extension.add(data[len(EXTENDED_SEGMENT) :])
        elif marker == 0xEB:
            data = budget.block(start, min(length, 128))  # JUMBF: "JP", numbers, boxes with a label
            found.c2pa = found.c2pa or (data.startswith(b"JP") and b"jumb" in data and b"c2pa" in data)
    if extension.text:
        found.xmp += "\n" + extension.text


class _ExtendedXmp:
    """XMP above 64 kB of a JPEG file, in portions (XMP specification part 3, section 1.1.3.1).

    Each portion begins with a GUID of 32 hex digits, the length of the whole text and its own offset, both
    32-bit big-endian. Portions with the GUID that the main packet names are read, in any order, `BLOCK` bytes
    in all; gaps are filled with spaces. That the GUID is the MD5 of the text is not checked.
    """

    def __init__(self) -> None:
        self.guid: bytes | None = None
        self.portions: list[tuple[bytes, int, bytes]] = []

    def expect(self, packet: bytes) -> None:
        """The main packet, which names the GUID."""
        match = EXTENDED.search(packet)
        self.guid = match[1].upper() if match else None

    def add(self, data: bytes) -> None:
        """One segment without its name."""
        if len(data) > 40:
            self.portions.append((data[:32].upper(), struct.unpack(">I", data[36:40])[0], data[40:]))

    @property
    def text(self) -> str:
        whole = bytearray()
        for guid, offset, data in self.portions:
            end = min(offset + len(data), BLOCK)
            if guid != self.guid or offset >= end:
                continue
            whole.extend(b" " * (end - len(whole)))
            whole[offset:end] = data[: end - offset]
        return _xmp_text(bytes(whole)) if whole else ""


def _read_webp(handle: BinaryIO, found: Embedded) -> None:
    budget, position = _Budget(handle), 12
    for _ in range(BLOCKS):
        handle.seek(position)
        head = handle.read(8)
        if len(head) < 8 or not budget.left:
            return
        kind, length = struct.unpack("<4sI", head)
        if kind == b"C2PA":
            found.c2pa = True
        elif kind == b"EXIF":
            data = budget.block(position + 8, length)
            _read_exif(io.BytesIO(data.removeprefix(EXIF_SEGMENT)), found)
        elif kind == b"XMP ":
            found.xmp = found.xmp or _xmp_text(budget.block(position + 8, length))
        position += 8 + length + length % 2


def _xmp_text(data: bytes) -> str:
    if data[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8", "replace")


# ------------------------------------------------------------------------------------------------------- EXIF
def _read_exif(handle: BinaryIO, found: Embedded) -> None:
    """Add the tags of `EXIF_TAGS` from a TIFF structure: of its first directory, then of its EXIF one."""
    handle.seek(0)
    start = handle.read(8)
    if start[:4] not in (b"II*\0", b"MM\0*") or len(start) < 8:
        return
    order = "<" if start[:2] == b"II" else ">"
    budget = _Budget(handle)
    nested = _read_directory(budget, order, struct.unpack(f"{order}I", start[4:])[0], found)
    if nested:
        _read_directory(budget, order, nested, found)


def _read_directory(budget: _Budget, order: str, offset: int, found: Embedded) -> int:
    """Add the texts of one directory. Returns the offset of the EXIF directory; 0 = there is none."""
    head = budget.block(offset, 2)
    count = struct.unpack(f"{order}H", head)[0] if len(head) == 2 else 0
    entries, nested = budget.block(offset + 2, 12 * count), 0
    for position in range(0, len(entries) - 11, 12):
        tag, kind, length, value = struct.unpack(f"{order}HHII", entries[position : position + 12])
        if tag == EXIF_DIRECTORY:
            nested = value
        elif tag == C2PA_TAG:
            found.c2pa = True
        elif tag in EXIF_TAGS and kind in TEXT_KINDS:
            data = entries[position + 8 : position + 8 + length]  # up to four bytes are in the entry itself
            text = _tag_text(data if length <= 4 else budget.block(value, length))
            if EXIF_TAGS[tag] == "XMP":
                found.xmp = found.xmp or text
            elif text:
                found.exif.setdefault(EXIF_TAGS[tag], text)
    return nested


def _tag_text(data: bytes) -> str:
    """The text of a tag. UserComment starts with eight bytes that name its encoding."""
    if data.startswith(b"UNICODE\0"):
        content = data[8:]
        # EXIF leaves the byte order open. In most texts the high bytes are zero.
        big = content[0::2].count(0) >= content[1::2].count(0)
        return content.decode("utf-16-be" if big else "utf-16-le", "replace")
    return _decoded(data.removeprefix(b"ASCII\0\0\0")).strip("\0")
