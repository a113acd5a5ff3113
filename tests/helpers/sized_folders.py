"""Folders of pictures of given sizes, with a class that shows in each picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("rising", "falling")


def drawn(size: tuple[int, int], label: int, rng: np.random.Generator) -> np.ndarray:
    """A picture uint8 [H, W, 3]: a ramp from left to right that rises or falls, with some noise."""
    height, width = size
    ramp = np.linspace(40, 210, width)[:: 1 - 2 * label]
    colour = rng.uniform(0.6, 1.0, 3)
    noise = rng.normal(0, 6, (height, width, 3))
    return (ramp[None, :, None] * colour + noise).clip(0, 255).astype(np.uint8)


def folder(root: Path, sizes: Sequence[tuple[int, int]], per_class: int = 20, captions: bool = False) -> Path:
    """A folder with two classes; picture i has size i of `sizes`, (H, W), in turn. With captions if asked."""
    rng = np.random.default_rng(0)
    lines = []
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            file = f"{name}/{i:03d}.png"
            Image.fromarray(drawn(sizes[i % len(sizes)], label, rng)).save(root / file)
            lines.append({"file_name": file, "text": f"a {name} ramp", "label": name})
    if captions:
        (root / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return root
