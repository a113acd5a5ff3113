"""Small pictures for tests: random 4 x 4 colour grids, enlarged bicubically."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image


def pictures(n: int, side: int = 32, seed: int = 0) -> list[Image.Image]:
    """`n` different RGB images of `side` px, a pure function of `seed`."""
    rng = np.random.default_rng(seed)
    grids = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC) for grid in grids]


def folder(path: Path, n: int, side: int = 32, seed: int = 0) -> Path:
    """A flat folder of `pictures` as 000.png, 001.png, ..."""
    path.mkdir(parents=True)
    for i, picture in enumerate(pictures(n, side, seed)):
        picture.save(path / f"{i:03d}.png")
    return path


def opened(text: str) -> Image.Image:
    """The picture in a data URI of PNG or WebP."""
    head, content = text.split(",", 1)
    assert head in ("data:image/png;base64", "data:image/webp;base64")
    return Image.open(io.BytesIO(base64.b64decode(content)))
