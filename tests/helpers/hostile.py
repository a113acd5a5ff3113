"""A small run whose class names are out to do harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HOSTILE = [
    "<img src=x onerror=hacked()>",
    "<script>hacked()<",
    "\"'><b>bold",
    "evil\u202etxt.exe",
    "a\u0007bell & {{ 7 * 7 }}",
]
"""Names of class folders: markup, script, quotes, text that turns around, control characters, a template."""
VERDICT = {
    "generation": 2,
    "words": "early collapse <b>now</b>",
    "stage": "early",
    "alarm": True,
    "n": 60,
    "advice": "add real images",
    "gone": [HOSTILE[0]],
    "first_alarm": [1, ["recall"]],
    "evidence": ["7 lost tails: recall (pixels) 0.1"],
    "unknown": {
        "not answerable from one chain": ["4 change of scaling law"],
        "cannot tell at this n": ["6 entangled modes"],
    },
    "left_out": {"tail_recall": "too few <i>images</i>"},
    "findings": [
        {
            "generation": t,
            "words": "early collapse",
            "profile": {"2 any increase of risk": "present", "7 lost tails": "absent"},
        }
        for t in range(3)
    ],
}
"""A diagnosis as `difflab.report.verdict` makes it, with markup in it."""


def folder(path: Path, names: list[str] = HOSTILE, each: int = 40, side: int = 8) -> Path:
    """Class folders of images that differ by class in brightness and by image in noise."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        (path / name).mkdir(parents=True)
        for i in range(each):
            pixels = np.clip(40 + 40 * k + rng.normal(0, 25, (side, side)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path / name / f"{i}.png")
    return path


def settings(source: Path, **more: Any) -> dict[str, Any]:
    return {
        "name": "hostile",
        "generations": 2,
        "data": {"source": f"imagefolder:{source}", "held_out": 0.4, "color": "L"},
        "model": {"family": "pixel-mlp", "conditional": True, "width": 32},
        "train": {"start_from": "scratch", "images_seen": 1000, "batch_size": 64},
        "sample": {"count": 60, "steps": 4},
        "probe": {"per_condition": 2},
        "measure": {"extractors": ["pixels", "texture"], "resamples": 20, "held_out_loss": 16}
        | {
            "metrics": [
                "fd",
                "precision",
                "recall",
                "coverage",
                "class_accuracy",
                "near_duplicates",
                "sharpness_shift",
            ]
        },
    } | more
