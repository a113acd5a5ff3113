"""Less or more noise than the model was trained for: sampling bias."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.models.steer import Steer
from difflab.policies.interface import At, Policy
from difflab.policies.sample.common import check_denoises


class Scaled(Steer):
    """All noise times a factor."""

    def __init__(self, scale: float):
        self.scale = scale

    def start(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x

    def noise(self, z: torch.Tensor) -> torch.Tensor:
        return self.scale * z


@policy("temperature")
class Temperature(Policy):
    """The noise that images start from, and the noise that stochastic schedulers add, times `scale`: truncation below 1.

    Exact where the prediction is linear in the image, as for the score of a normal distribution, and nothing is clipped: with any
    scheduler and any number of steps a sample's deviation from the one without noise is multiplied by `scale`, so that the variance is
    multiplied by scale^2, the bias lambda of Alemohammad et al. 2307.01850. For other models it is a bias to the same side, of another size.
    """

    source = "Alemohammad et al. 2307.01850"

    scale: float = Field(
        gt=0,
        le=10,
        description="Factor on the noise's standard deviation; below 1 = less variety, above 1 = more; 1 = off.",
    )

    def check(self, config: Any) -> None:
        check_denoises(self.policy, config)

    def decides(self) -> tuple[str, ...]:
        return ("the scale of the noise",)

    def steer(self, at: At, model: Any) -> Steer:
        return Scaled(self.scale)
