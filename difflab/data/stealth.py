"""Recognise the hidden text that some generators write into the lowest bits of pixels.

Two programs write it: NovelAI, whose reader is published (github.com/NovelAI/novelai-image-metadata,
nai_meta.py), and the extension stealth-pnginfo of A1111 and Forge. The bits are read column by column from
the top left, most significant bit first; the text begins with a word of `ALPHA` or `COLOURS`. With alpha,
there is one bit per pixel; without, there are three, of red, green and blue. The text behind the word is not
read.

120 bits agree by chance once in 2^120 images. Any change of the pixels removes the text, also JPEG.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ALPHA = {b"stealth_pngcomp": "NovelAI or stealth-pnginfo", b"stealth_pnginfo": "stealth-pnginfo"}
"""Marker in the alpha channel -> the programs that write it. NovelAI compresses its text."""
COLOURS = {b"stealth_rgbcomp": "stealth-pnginfo", b"stealth_rgbinfo": "stealth-pnginfo"}
"""The same in red, green and blue."""
BYTES = 15
PNG_RGBA = 6
"""The colour type of PNG files with alpha."""


def hidden_text(item: Any, rgb: np.ndarray, max_pixels: int) -> str | None:
    """The programs that wrote hidden text into an image; None = there is none.

    Args:
        item: the file, its bytes or a PIL image; arrays have no alpha.
        rgb: its upright pixels without alpha, uint8 [H, W, 3]. They are the stored ones if the image has no
            alpha and EXIF does not turn it, as is so for all files that these programs write.
        max_pixels: files with more pixels are not decoded.
    """
    alpha = _alpha(item, max_pixels)
    if alpha is not None:
        return ALPHA.get(_first_bytes(alpha[..., None]))
    return COLOURS.get(_first_bytes(rgb))


def _first_bytes(values: np.ndarray) -> bytes:
    """The first `BYTES` bytes in the lowest bits of uint8 [H, W, C], column by column."""
    height, channels = values.shape[0], values.shape[2]
    columns = -(-8 * BYTES // (height * channels))
    bits = values[:, :columns].transpose(1, 0, 2).reshape(-1)[: 8 * BYTES] & 1
    return np.packbits(bits).tobytes()


def _alpha(item: Any, max_pixels: int) -> np.ndarray | None:
    """The alpha channel of a PNG file or PIL image, uint8 [H, W]; None if it has none."""
    if isinstance(item, Path):
        with open(item, "rb") as handle:
            start = handle.read(26)
    else:
        start = item[:26] if isinstance(item, bytes) else b""
    if isinstance(item, Image.Image):
        return np.asarray(item.getchannel("A")) if item.mode == "RGBA" else None
    if len(start) < 26 or start[:4] != b"\x89PNG" or start[24:26] != bytes((8, PNG_RGBA)):
        return None
    try:
        with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item, formats=("PNG",)) as image:
            if image.mode != "RGBA" or image.width * image.height > max_pixels:
                return None
            return np.asarray(image.getchannel("A"))
    except Exception:  # it was decoded before, so only its metadata can be damaged
        return None
