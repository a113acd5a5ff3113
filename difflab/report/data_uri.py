"""Images inside a page: data URIs, as large as the page can bear."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from PIL import Image

EXACT = 64
"""Images up to this side are kept as they are (PNG) where there is room for it; a browser enlarges them with hard edges."""
SIDES = (256, 192, 128, 96, 64)
BUDGET = 8_000_000
"""Characters that all generated images of a page may take together."""


def uri(image: np.ndarray, side: int = SIDES[0], exact: bool = True) -> str:
    """A uint8 image [H, W, C] as a data URI: PNG up to `EXACT` pixels a side where `exact`, else WebP of at most `side` pixels.

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
    """`uri` with the best settings at which `count` images like `examples` fit into `budget` characters together, and how many images do fit.

    Where they do not, that is fewer than `count`, with the settings at which it is most.
    """
    if not len(examples):
        return uri, count
    fitting = 0
    for side, exact in ((SIDES[0], True), *((s, False) for s in SIDES)):
        fit = int(budget / np.mean([len(uri(image, side, exact)) for image in examples]))
        if fit >= fitting:
            fitting, best = fit, partial(uri, side=side, exact=exact)
        if fit >= count:
            break
    return best, min(fitting, count)
