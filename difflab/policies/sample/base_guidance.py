"""Guidance away from what the base would paint without a condition."""

from __future__ import annotations

from typing import Any

import torch

from difflab.config.policy_registry import policy
from difflab.models.steer import Steer, Step
from difflab.policies.interface import At, Policy
from difflab.policies.sample.common import check_guided, opened


class Without(Steer):
    """The unconditional prediction of another model."""

    def __init__(self, model: Any):
        self.model = model

    def without(self, step: Step) -> torch.Tensor:
        null = torch.full((len(step.x),), self.model.null, device=step.x.device)
        return self.model.predict(self.model.net, step.x, step.t, null)


@policy("base_guidance")
class BaseGuidance(Policy):
    """eps = eps_base(none) + g (eps_t(condition) - eps_base(none)): the unconditional half of guidance stays that of the base.

    A model that was fine-tuned on few images, or on its own, has an unconditional prediction that drifted with it. Here it is the
    pretrained one's; without a pretrained base it is generation 0's, which in generation 0 changes nothing. Exact for scores of normal
    distributions and the probability-flow equation: a class of variance v is sampled with v (v/V)^(g-1), V being the base's
    unconditional variance.
    """

    source = "Phunyaphibarn et al. 2503.20240"

    def check(self, config: Any) -> None:
        check_guided(self.policy, config)

    def decides(self) -> tuple[str, ...]:
        return ("the prediction without condition",)

    def steer(self, at: At, model: Any) -> Steer:
        return Without(opened(at, "base"))
