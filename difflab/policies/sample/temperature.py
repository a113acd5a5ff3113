"""Sampling with scaled noise, which gives a sampling bias."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.models.steer import Steer
from difflab.policies.interface import At, Policy
from difflab.policies.sample.common import check_denoises


class Scaled(Steer):
    """Multiplies all noise by a factor."""

    def __init__(self, scale: float):
        self.scale = scale

    def start(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x

    def noise(self, z: torch.Tensor) -> torch.Tensor:
        return self.scale * z


@policy("temperature")
class Temperature(Policy):
    """All noise in sampling is multiplied by `scale`.

    This includes the initial noise and the noise of stochastic schedulers. A scale below 1 is truncation.
    Exact if the prediction is linear in the image, as for the score of a normal distribution, and nothing is
    clipped: with any scheduler and any number of steps, the variance of the samples is multiplied by scale^2.
    This factor is the sampling bias lambda of Alemohammad et al. 2307.01850. For other models the bias has
    the same direction but another size.
    """

    source = "Alemohammad et al. 2307.01850"

    scale: float = Field(
        gt=0,
        le=10,
        description="Factor on the standard deviation of the noise; below 1 = less variety, above 1 = more "
        "variety; 1 = off.",
    )

    def check(self, config: Any) -> None:
        check_denoises(self.policy, config)

    def decides(self) -> tuple[str, ...]:
        return ("the scale of the noise",)

    def steer(self, at: At, model: Any) -> Steer:
        return Scaled(self.scale)
