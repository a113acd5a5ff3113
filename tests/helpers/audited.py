"""Small image sets of known origin: emoji, and emoji that are blurred and noisy as a bad model's samples are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

A1111 = "a cat <b>\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1"


def synthetic(image: np.ndarray, seed: int = 0) -> np.ndarray:
    """A bad copy of an image, uint8 [32, 32, 3]."""
    small = Image.fromarray(image).resize((20, 20)).resize((32, 32), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(seed).normal(0, 3, (32, 32, 3))
    return np.clip(np.asarray(small) + noise, 0, 255).astype(np.uint8)


def write(folder: Path, images: Iterable[np.ndarray], name: str = "image", text: str | None = None) -> Path:
    """PNG files NAME00000.png, ... with a text chunk `parameters` if `text` is given."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        info = PngInfo()
        if text is not None:
            info.add_text("parameters", text)
        Image.fromarray(image).save(folder / f"{name}{i:05d}.png", pnginfo=info)
    return folder
