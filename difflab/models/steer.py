"""The hooks of the sampling loop, through which sampling policies change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Step:
    """One step of the denoising of n images.

    Attributes:
        x: the noisy images [n, C, H, W], as the network receives them.
        t: the timestep, [n].
        share: the timestep divided by the number of timesteps: 1 = pure noise, 0 = no noise.
        conditions: int64 [n]; None = the model is unconditional.
        scale: the guidance scale.
        seeds: one per image. Random numbers of a policy must depend only on the seeds and the step.
    """

    x: torch.Tensor
    t: torch.Tensor
    share: float
    conditions: torch.Tensor | None
    scale: float
    seeds: list[int]


class Steer:
    """Base of the sampling hooks. By default each method returns its argument unchanged.

    If several policies are active, the result of one is the argument of the next.
    """

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """The noise [n, C, H, W] that denoising starts from."""
        return x

    def guidance(self, scale: float, share: float) -> float:
        """The guidance scale of a step with noise level `share`, see Step."""
        return scale

    def embedding(self, e: torch.Tensor, step: Step) -> torch.Tensor:
        """The condition embedding [n, ...]. It is not called for the null condition."""
        return e

    def without(self, step: Step) -> torch.Tensor | None:
        """The unconditional prediction of guidance, or None for the model's own.

        The first policy that returns a prediction decides.
        """
        return None

    def prediction(self, prediction: torch.Tensor, step: Step) -> torch.Tensor:
        """The guided prediction of a step."""
        return prediction

    def arguments(self, arguments: dict[str, Any], accepted: Sequence[str]) -> dict[str, Any]:
        """Keyword arguments of the scheduler's `step`. `accepted` are the names of its parameters."""
        return arguments

    def noise(self, z: torch.Tensor) -> torch.Tensor:
        """The noise [n, C, H, W] that a stochastic scheduler adds in a step."""
        return z


def overrides(steers: Sequence[Steer], method: str) -> bool:
    """Whether any of `steers` overrides the method of Steer with this name."""
    return any(getattr(type(steer), method) is not getattr(Steer, method) for steer in steers)
