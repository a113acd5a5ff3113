"""Small trainings of a pixel MLP on images in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from difflab.config import Config, parse
from difflab.core.shape import Shape
from difflab.loop.training_loop import fit
from difflab.models.pixel_mlp import PixelMLP

IMAGES = np.random.default_rng(0).integers(0, 256, (37, 4, 4, 1), dtype=np.uint8)


LABELS = np.arange(37) % 3


SHAPE = Shape((4, 4, 1), 3)


class Data:
    """A training set in memory."""

    def __init__(self, images: np.ndarray = IMAGES, labels: np.ndarray | None = LABELS):
        self.pixels, self.conditions = images, labels

    def __len__(self) -> int:
        return len(self.pixels)

    def inputs(self, at: np.ndarray) -> np.ndarray:
        return self.pixels[at]


def config(**train: Any) -> Config:
    settings = {
        "images_seen": 640,
        "batch_size": 16,
        "checkpoint_every": 0,
        "learning_rate": 3e-3,
        "ema_decay": 0.9,
        **train,
    }
    return parse({"model": {"family": "pixel-mlp", "width": 16, "depth": 1}, "train": settings})


def fresh(c: Config, shape: Shape = SHAPE) -> PixelMLP:
    model = PixelMLP(c.model, shape)
    model.initialise(3)
    return model


def train(
    folder: Path, c: Config, advance: Any = lambda n: None, data: Any = None, accelerator: Any = None
) -> PixelMLP:
    model = fresh(c)
    model.prepare_training(c.train, "cpu")
    fit(model, data or Data(), c.train, (c.seed, 0), folder, accelerator or Accelerator(), advance)  # type: ignore[arg-type]
    return model


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "training.json").read_text())


def curve(folder: Path) -> list[list[float]]:
    return record(folder)["loss"]


def same(a: PixelMLP, b: PixelMLP) -> bool:
    other = b.net.state_dict()
    return all(torch.equal(p, other[name]) for name, p in a.net.state_dict().items())


class Stop(Exception):
    pass
