"""What watches a training: asked after every step of the optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from difflab.config import Train
from difflab.models.ema import Average


@dataclass(frozen=True)
class Moment:
    """Where a training stands after a step of the optimiser; a Watch may look at all of it and change the weights in place."""

    model: Any
    net: Any  # not wrapped
    weights: dict[str, Any]  # what is trained, by name
    average: Average  # the EMA of the weights
    train: Train
    steps: int
    images_seen: int
    learning_rate: float  # of the step that was taken
    accelerator: Accelerator


class Watch:
    """What a policy does during a training. All of it is a function of (seed, generation, step) and of `state`, so that a resumed training is the same."""

    def adjust(self, now: Moment) -> None:
        """After each step of the optimiser, before the weights are averaged: change them in place."""

    def step(self, now: Moment) -> bool:
        """After that. True ends the training here."""
        return False

    def state(self) -> dict[str, Any]:
        """Tensors that go into every checkpoint."""
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what a checkpoint holds of `state`; not asked where there is nothing."""

    def end(self, weights: dict[str, Any]) -> None:
        """After the averaged weights were put in the place of the trained ones."""

    def record(self) -> dict[str, Any]:
        """What it leaves in training.json, under a name of its own."""
        return {}
