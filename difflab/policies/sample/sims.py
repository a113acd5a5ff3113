"""Self-improving sampling: the model's own prediction as negative guidance."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.models.steer import Steer, Step
from difflab.policies.interface import At, Policy
from difflab.policies.sample.common import check_denoises, opened


class Away(Steer):
    """Extrapolates from the model's prediction through that of a reference model."""

    def __init__(self, model: Any, reference: Any, strength: float):
        self.model, self.reference, self.strength = model, reference, strength

    def prediction(self, prediction: torch.Tensor, step: Step) -> torch.Tensor:
        # The reference is guided and told as the model is, by the other policies too.
        self.reference.steers = [steer for steer in self.model.steers if not isinstance(steer, Away)]
        return (1 + self.strength) * self.reference.guided(step).float() - self.strength * prediction.float()


@policy("sims")
class Sims(Policy):
    """The model's own prediction serves as negative guidance for a reference model.

    The prediction is (1 + w) times that of the reference model minus w times the model's own. The model was
    trained on samples of the reference model. Exact for normal scores of variance v_r (reference) and v_s
    (this model) and the probability-flow equation: samples have variance v_r (v_r/v_s)^w, more than the
    reference if v_s < v_r. As with classifier-free guidance, the combined score at zero noise belongs to
    another density, here of precision (1 + w)/v_r - w/v_s, which is not the one sampled.
    """

    source = "Alemohammad et al. 2408.16333"

    first: int = Field(
        1, ge=1, description="First generation in which it acts; generation 0 was trained on no samples."
    )
    strength: float = Field(
        1.0,
        ge=0,
        description="w, in units of the difference between the two predictions; 0 = samples of the "
        "reference alone.",
    )
    reference: Literal["previous", "base"] = Field(
        "previous",
        description="previous = generation t-1's model; base = the pretrained one, without a pretrained "
        "base generation 0's.",
    )

    def check(self, config: Any) -> None:
        check_denoises(self.policy, config)

    def decides(self) -> tuple[str, ...]:
        return ("what the prediction is led away from",)

    def steer(self, at: At, model: Any) -> Steer:
        return Away(model, opened(at, self.reference), self.strength)
