"""The exponential moving average (EMA) of the weights during training."""

from __future__ import annotations

from typing import Any

import torch


class Average:
    """Exponential moving average of the weights.

    The decay after k steps is min(d, (1 + k) / (10 + k)), as in the EMAModel of diffusers.

    Args:
        weights: the trained parameters by name.
        decay: d in [0, 1); 0 = no average is kept.
    """

    def __init__(self, weights: dict[str, Any], decay: float):
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in weights.items()} if decay else {}

    @torch.no_grad()
    def update(self, weights: dict[str, Any], step: int) -> None:
        """Add the weights after `step` earlier updates."""
        if self.decay:
            share = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.weights.values()), [weights[name] for name in self.weights], share)

    @torch.no_grad()
    def copy_to(self, weights: dict[str, Any]) -> None:
        """Overwrite `weights` with their average."""
        for name, average in self.weights.items():
            weights[name].copy_(average)
