"""Add a text chunk to a PNG file without encoding its pixels again."""

from __future__ import annotations

import struct
import zlib

KEYWORD = "difflab"
"""Keyword of the text chunk in which exported files declare their origin."""
START = 33
"""Length of the signature and of the first chunk, IHDR, of every PNG file."""


def with_text(png: bytes, keyword: str, text: str) -> bytes:
    """The file with an iTXt chunk after its header (PNG specification, third edition, 11.3.3.4).

    Args:
        png: the content of a PNG file.
        keyword: 1 to 79 characters of Latin-1.
        text: the text, which is stored as UTF-8 without compression.

    Raises ValueError if `png` is not the content of a PNG file.
    """
    if not png.startswith(b"\x89PNG\r\n\x1a\n") or png[12:16] != b"IHDR":
        raise ValueError("not a PNG file")
    content = b"iTXt" + keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode()
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:START] + chunk + png[START:]
