"""What a sampling policy may change of the denoising loop, and what it is told of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Step:
    """One step of the denoising of n images.

    Attributes:
        x: the noisy images [n, C, H, W], as the network sees them.
        t: the timestep, [n].
        share: how much noise is left, the timestep over the number of timesteps: 1 = nothing else, 0 = none.
        conditions: int64 [n]; None = the model has none.
        scale: the guidance scale.
        seeds: one per image; what a policy draws depends on them and on the step alone.
    """

    x: torch.Tensor
    t: torch.Tensor
    share: float
    conditions: torch.Tensor | None
    scale: float
    seeds: list[int]


class Steer:
    """What a sampling policy changes of the denoising loop; each method returns what it was given. Several are asked in order."""

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """The noise [n, C, H, W] that images start from."""
        return x

    def guidance(self, scale: float, share: float) -> float:
        """The guidance scale of a step in which `share` of the noise is left."""
        return scale

    def embedding(self, e: torch.Tensor, step: Step) -> torch.Tensor:
        """What the network is told of the conditions, [n, ...]; it is not asked about "none"."""
        return e

    def without(self, step: Step) -> torch.Tensor | None:
        """The prediction without condition that guidance leads away from; None = the model's own. The first that has one is taken."""
        return None

    def prediction(self, prediction: torch.Tensor, step: Step) -> torch.Tensor:
        """The guided prediction of a step."""
        return prediction

    def arguments(self, given: dict[str, Any], accepted: Sequence[str]) -> dict[str, Any]:
        """Arguments of the scheduler's step, which knows those `accepted`."""
        return given

    def noise(self, z: torch.Tensor) -> torch.Tensor:
        """The noise [n, C, H, W] that a scheduler adds in a step, if it adds any."""
        return z


def overrides(steers: Sequence[Steer], method: str) -> bool:
    """Whether any of the policies that act while sampling has its own `method` of Steer."""
    return any(getattr(type(steer), method) is not getattr(Steer, method) for steer in steers)
