"""Images inside a page: data URIs, in the best quality that the page has room for."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from PIL import Image

EXACT = 64
"""Images of at most this many pixels a side are kept exactly (PNG) where there is room.

A browser enlarges them with hard edges.
"""
SIDES = (256, 192, 128, 96, 64)
"""Longest sides in pixels of compressed images, best first."""
BUDGET = 8_000_000
"""Characters that all generated images of a page may take together."""


def uri(image: np.ndarray, side: int = SIDES[0], exact: bool = True) -> str:
    """A uint8 image [H, W, C] as a data URI.

    Args:
        side: longest side in pixels of a WebP image.
        exact: keep images of at most `EXACT` pixels a side as PNG.

    >>> uri(np.zeros((2, 2, 1), np.uint8))[:22]
    'data:image/png;base64,'
    """
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    out = io.BytesIO()
    if exact and max(picture.size) <= EXACT:
        kind = "png"
        picture.save(out, "PNG", optimize=True)
    else:
        kind = "webp"
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        picture.convert("RGB").save(out, "WEBP", quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def encoder(
    examples: Sequence[np.ndarray], count: int, budget: int = BUDGET
) -> tuple[Callable[[np.ndarray], str], int]:
    """`uri` with the best settings for `count` images like `examples` within `budget` characters.

    Returns the encoder and the number of images that fit. Where not all fit, the settings are those at
    which most do.
    """
    if not len(examples):
        return uri, count
    most, best = 0, partial(uri)
    for side, exact in ((SIDES[0], True), *((s, False) for s in SIDES)):
        fitting = int(budget / np.mean([len(uri(image, side, exact)) for image in examples]))
        if fitting >= most:
            most, best = fitting, partial(uri, side=side, exact=exact)
        if fitting >= count:
            break
    return best, min(most, count)
