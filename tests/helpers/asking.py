"""A small run of digits whose precision is auto."""

from __future__ import annotations

from typing import Any

from difflab.config import Config, merged, parse

DIGITS: dict[str, Any] = {
    "generations": 0,
    "data": {"source": "digits", "train_size": 40},
    "model": {"family": "pixel-mlp", "width": 16, "depth": 1},
    "train": {"images_seen": 64, "batch_size": 32},
    "sample": {"count": 20, "steps": 2, "batch_size": 20, "shard_size": 20, "conditions": "balanced"},
    "probe": {"per_condition": 0},
    "measure": {"metrics": [], "held_out_loss": 0},
}
BOTH = {"train.precision": "auto", "sample.precision": "auto"}
Measured = dict[str, dict[str, float]]
"""Seconds by what is measured and by precision."""


def config(values: dict[str, Any] | None = None, base: dict[str, Any] = DIGITS) -> Config:
    return parse(merged(base, BOTH if values is None else values))
