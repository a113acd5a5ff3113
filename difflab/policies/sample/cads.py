"""Condition-annealed sampling: noise on the condition embedding."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field, model_validator

from difflab.config.policy_registry import policy
from difflab.core.seeds import generator
from difflab.models.steer import Steer, Step
from difflab.policies.interface import At, Policy
from difflab.policies.sample.common import check_conditional


class Annealed(Steer):
    """Adds noise to the condition embedding."""

    def __init__(self, policy: Cads):
        self.policy = policy

    def embedding(self, e: torch.Tensor, step: Step) -> torch.Tensor:
        gamma, shape = self.policy.gamma(step.share), tuple(e.shape[1:])
        if gamma == 1:
            return e
        # A function of image and step alone: another model that is asked in the same step is told the same.
        n = torch.stack(
            [torch.randn(shape, generator=generator("cads", seed, step.share, shape)) for seed in step.seeds]
        ).to(e.device)
        y = e.float()
        return self.policy.noisy(y, n, gamma).to(e.dtype)


@policy("cads")
class Cads(Policy):
    """Noise on the condition embedding makes images of one condition more diverse (condition-annealed
    sampling).

    y' = sqrt(gamma) y + scale sqrt(1 - gamma) n for the embedding y of a class or caption and normal noise n,
    drawn anew in every step. gamma is 0 while the share of noise left in the image is above tau2, 1 below
    tau1, and linear between. `mixing` interpolates between y' and y' rescaled to the mean and standard
    deviation of y, which are those of one image's embedding, not of a batch. The embedding of no condition is
    unchanged.
    """

    source = "Sadat et al. 2310.17347"

    tau1: float = Field(
        0.6, ge=0, le=1, description="Share of noise left, 0 to 1, at and below which the condition is whole."
    )
    tau2: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of noise left, 0 to 1, at and above which only noise is told; 1 with tau1 1 = "
        "off.",
    )
    scale: float = Field(
        0.25, ge=0, description="Standard deviation s of the noise, in units of the embedding's entries."
    )
    mixing: float = Field(
        1.0, ge=0, le=1, description="psi: 1 = mean and spread of the embedding are restored, 0 = not."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Cads:
        if self.tau1 > self.tau2:
            raise ValueError(f"tau1 {self.tau1:g} is above tau2 {self.tau2:g}")
        return self

    def check(self, config: Any) -> None:
        check_conditional(self.policy, config)

    def decides(self) -> tuple[str, ...]:
        return ("the noise on conditions",)

    def gamma(self, share: float) -> float:
        """How much of the condition is told when `share` of the noise is left."""
        if share <= self.tau1:
            return 1.0
        return 0.0 if share >= self.tau2 else (self.tau2 - share) / (self.tau2 - self.tau1)

    def noisy(self, y: torch.Tensor, n: torch.Tensor, gamma: float) -> torch.Tensor:
        """Embeddings [b, ...] under noise n of the same shape."""
        over = tuple(range(1, y.ndim))
        told = math.sqrt(gamma) * y + self.scale * math.sqrt(1 - gamma) * n
        spread = told.std(over, keepdim=True)
        restored = (told - told.mean(over, keepdim=True)) / torch.where(spread > 0, spread, 1) * y.std(
            over, keepdim=True
        ) + y.mean(over, keepdim=True)
        return self.mixing * restored + (1 - self.mixing) * told

    def steer(self, at: At, model: Any) -> Steer:
        return Annealed(self)
