"""The hooks of the sampling loop: what a sampling policy may change, and what it knows of a step."""

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
        seeds: one per image. A policy draws its random numbers from the seeds and the step alone.
    """

    x: torch.Tensor
    t: torch.Tensor
    share: float
    conditions: torch.Tensor | None
    scale: float
    seeds: list[int]


class Steer:
    """Base of the sampling hooks. Each method returns its argument unchanged until a policy overrides it.

    Where several policies act, the result of one is the argument of the next.
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

    def arguments(self, given: dict[str, Any], accepted: Sequence[str]) -> dict[str, Any]:
        """Keyword arguments of the scheduler's `step`. `accepted` are the names that it takes."""
        return given

    def noise(self, z: torch.Tensor) -> torch.Tensor:
        """The noise [n, C, H, W] that a stochastic scheduler adds in a step."""
        return z


def overrides(steers: Sequence[Steer], method: str) -> bool:
    """Whether any of `steers` overrides this method of Steer."""
    return any(getattr(type(steer), method) is not getattr(Steer, method) for steer in steers)
