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
        # The noise depends only on the image and the step, so a second model in the same step gets the same
        # noise.
        n = torch.stack(
            [torch.randn(shape, generator=generator("cads", seed, step.share, shape)) for seed in step.seeds]
        ).to(e.device)
        y = e.float()
        return self.policy.noisy(y, n, gamma).to(e.dtype)


@policy("cads")
class Cads(Policy):
    """Noise on the condition embedding makes images of one condition more diverse (condition-annealed
    sampling).

    y' = sqrt(gamma) y + scale sqrt(1 - gamma) n for the embedding y of a class or caption and normal noise
    n, which is drawn again in every step. gamma is 0 while the share of noise left in the image is above
    tau2, 1 below tau1, and linear between. `mixing` interpolates between y' and y' rescaled to the mean and
    standard deviation of y. Both are computed over the embedding of one image, not over a batch. The
    embedding of the empty condition is unchanged.
    """

    source = "Sadat et al. 2310.17347"

    tau1: float = Field(
        0.6,
        ge=0,
        le=1,
        description="Share of noise left, 0 to 1, at and below which the condition has no noise.",
    )
    tau2: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of noise left, 0 to 1, at and above which the condition is pure noise; tau1 = "
        "tau2 = 1 = off.",
    )
    scale: float = Field(
        0.25, ge=0, description="Standard deviation s of the noise, in units of the embedding's entries."
    )
    mixing: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Mixing factor psi, 0 to 1; 1 = the mean and standard deviation of the embedding are "
        "fully restored, 0 = not at all.",
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
        """gamma, 0 to 1, when `share` of the noise is left. 1 = the condition has no noise."""
        if share <= self.tau1:
            return 1.0
        return 0.0 if share >= self.tau2 else (self.tau2 - share) / (self.tau2 - self.tau1)

    def noisy(self, y: torch.Tensor, n: torch.Tensor, gamma: float) -> torch.Tensor:
        """Embeddings y [b, ...] with noise n of the same shape."""
        dims = tuple(range(1, y.ndim))
        noised = math.sqrt(gamma) * y + self.scale * math.sqrt(1 - gamma) * n
        spread = noised.std(dims, keepdim=True)
        restored = (noised - noised.mean(dims, keepdim=True)) / torch.where(spread > 0, spread, 1) * y.std(
            dims, keepdim=True
        ) + y.mean(dims, keepdim=True)
        return self.mixing * restored + (1 - self.mixing) * noised

    def steer(self, at: At, model: Any) -> Steer:
        return Annealed(self)
