"""Callbacks of the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from difflab.config import Train
from difflab.models.ema import Average


@dataclass(frozen=True)
class Moment:
    """The state of a training after a step of the optimiser. A Watch may change the weights in place."""

    model: Any
    net: Any  # the network itself, without the wrapper of accelerate
    weights: dict[str, Any]  # the trained weights, by name
    average: Average  # the EMA of the weights
    train: Train
    steps: int
    images_seen: int
    learning_rate: float  # of the last step
    accelerator: Accelerator


class Watch:
    """A callback of the training loop.

    All methods must be functions of (seed, generation, step) and `state`, so that a resumed training gives
    the same weights.
    """

    def adjust(self, now: Moment) -> None:
        """Called after each step of the optimiser, before the EMA is updated: change the weights in place."""

    def step(self, now: Moment) -> bool:
        """Called after the EMA is updated. True stops the training."""
        return False

    def state(self) -> dict[str, Any]:
        """Tensors that are saved in every checkpoint."""
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Restore `state` from a checkpoint. It is not called if there is no checkpoint."""

    def end(self, weights: dict[str, Any]) -> None:
        """Called after the EMA weights have replaced the trained ones."""

    def record(self) -> dict[str, Any]:
        """Entries for training.json. Each callback uses its own key."""
        return {}
