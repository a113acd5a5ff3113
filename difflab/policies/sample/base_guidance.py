"""Classifier-free guidance with the unconditional prediction of the base model."""

from __future__ import annotations

from typing import Any

import torch

from difflab.config.policy_registry import policy
from difflab.models.steer import Steer, Step
from difflab.policies.interface import At, Policy
from difflab.policies.sample.common import check_guided, check_unconditional, opened


class Without(Steer):
    """Replaces the unconditional prediction by that of another model."""

    def __init__(self, model: Any):
        self.model = model

    def without(self, step: Step) -> torch.Tensor:
        null = torch.full((len(step.x),), self.model.null, device=step.x.device)
        return self.model.predict(self.model.net, step.x, step.t, null)


@policy("base_guidance")
class BaseGuidance(Policy):
    """Classifier-free guidance with the base model's unconditional prediction.

    eps = eps_base(none) + g (eps_t(condition) - eps_base(none)). Fine-tuning on few images, or on synthetic
    images, also changes the unconditional prediction of a model. This policy takes that prediction from the
    pretrained base. Without a pretrained base it takes the prediction of generation 0, so nothing changes in
    generation 0. Exact for scores of normal distributions and the probability-flow equation: a class of
    variance v is sampled with variance v (v/V)^(g-1), where V is the base's unconditional variance.
    """

    source = "Phunyaphibarn et al. 2503.20240"

    def check(self, config: Any) -> None:
        check_guided(self.policy, config)

    def check_model(self, model: Any) -> None:
        check_unconditional(self.policy, model)

    def decides(self) -> tuple[str, ...]:
        return ("the prediction without condition",)

    def steer(self, at: At, model: Any) -> Steer:
        return Without(opened(at, "base"))
