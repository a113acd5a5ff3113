"""Image files with metadata, written by Pillow where it can, else byte by byte."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image, PngImagePlugin

PNG = b"\x89PNG\r\n\x1a\n"
SETTINGS = "a cat\nNegative prompt: dogs\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1"
IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
C2PA_BOX = (
    b"JP\0\x01\0\0\0\x01\0\0\0\x40jumb\0\0\0\x1ejumdc2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\x03c2pa\0"
)


def png(texts: dict[str, str] | None = None, itxt: dict[str, str] | None = None, **save: Any) -> bytes:
    """A PNG file of 8 x 8 pixels with text chunks: tEXt, and iTXt."""
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    for keyword, text in (texts or {}).items():
        info.add_text(keyword, text)
    for keyword, text in (itxt or {}).items():
        info.add_itxt(keyword, text)
    Image.new("RGB", (8, 8), "teal").save(buffer, "PNG", pnginfo=info, **save)
    return buffer.getvalue()


def picture(form: str, **save: Any) -> bytes:
    """A file of 8 x 8 pixels in another format, for example JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, form, **save)
    return buffer.getvalue()


def exif(tags: dict[int, Any] | None = None, comment: bytes | None = None) -> Image.Exif:
    """EXIF data with these tags in the first directory, and with a UserComment in the EXIF directory."""
    made = Image.Exif()
    for tag, value in (tags or {}).items():
        made[tag] = value
    if comment is not None:
        made.get_ifd(0x8769)[0x9286] = comment
    return made


def xmp(attributes: str = "", elements: str = "") -> bytes:
    """An XMP packet with these attributes and elements of its description."""
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        f'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" {attributes}>'
        f'{elements}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def source_type(code: str) -> bytes:
    """An XMP packet with this DigitalSourceType."""
    return xmp(f'Iptc4xmpExt:DigitalSourceType="{IPTC}{code}"')


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG file with this chunk before its pixels."""
    plain = png()
    return plain[:33] + chunk(kind, data) + plain[33:]


def with_segment(marker: int, data: bytes, form: bytes | None = None) -> bytes:
    """A JPEG file with this segment before its pixels."""
    plain = form or picture("JPEG")
    return plain[:2] + struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data + plain[2:]


def with_webp_chunk(kind: bytes, data: bytes) -> bytes:
    """A WebP file with this chunk at its end."""
    body = picture("WEBP")[8:] + struct.pack("<4sI", kind, len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body
