"""Settings of a chain over images of three aspect ratios."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from difflab.config import parse

SIZES = [(24, 36), (24, 36), (24, 24), (36, 24), (24, 36)]  # three of five are wide
BUCKETS = [[8, 12], [8, 8], [12, 8]]
UNET: dict[str, Any] = {
    "family": "pixel-unet",
    "channels": [8, 8],
    "layers_per_block": 1,
    "norm_groups": 4,
    "attention": [False, True],
}


def settings(images: Path, **sections: Any) -> Any:
    raw: dict[str, Any] = {
        "name": "buckets",
        "generations": 2,
        "data": {"source": f"imagefolder:{images}", "buckets": BUCKETS},
        "model": UNET,
        "train": {
            "images_seen": 640,
            "batch_size": 16,
            "learning_rate": 3e-3,
            "ema_decay": 0.9,
            "checkpoint_every": 160,
        },
        "sample": {"count": 30, "steps": 3, "batch_size": 8, "shard_size": 8},
        "probe": {"per_condition": 4},
        "measure": {
            "extractors": ["texture", "artefacts"],
            "metrics": ["texture_distance", "blocking_shift"],
            "resamples": 0,
            "held_out_loss": 12,
        },
    }
    for section, values in sections.items():
        merged = isinstance(values, dict) and section != "model"
        raw[section] = {**raw[section], **values} if merged else values
    return parse(raw)
