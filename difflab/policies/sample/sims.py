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
    """Extrapolates from the prediction of the model through the prediction of a reference model."""

    def __init__(self, model: Any, reference: Any, strength: float):
        self.model, self.reference, self.strength = model, reference, strength

    def prediction(self, prediction: torch.Tensor, step: Step) -> torch.Tensor:
        # The other policies steer the reference model in the same way as the model.
        self.reference.steers = [steer for steer in self.model.steers if not isinstance(steer, Away)]
        return (1 + self.strength) * self.reference.guided(step).float() - self.strength * prediction.float()


@policy("sims")
class Sims(Policy):
    """The model's own prediction serves as negative guidance for a reference model.

    The prediction is (1 + w) times that of the reference model minus w times the model's own. The model was
    trained on samples of the reference model. Exact for the scores of normal distributions of variance v_r
    (reference) and v_s (this model) and the probability-flow equation: samples have variance v_r (v_r/v_s)^w,
    which is above v_r if v_s < v_r. As with classifier-free guidance, this is not the density that the
    combined score has at zero noise; that density has precision (1 + w)/v_r - w/v_s.
    """

    source = "Alemohammad et al. 2408.16333"

    first: int = Field(
        1,
        ge=1,
        description="First generation in which the policy acts. Generation 0 was not trained on samples.",
    )
    strength: float = Field(
        1.0,
        ge=0,
        description="Guidance strength w, in units of the difference between the two predictions; 0 = the "
        "prediction of the reference model alone.",
    )
    reference: Literal["previous", "base"] = Field(
        "previous",
        description="The reference model: previous = generation t-1; base = the pretrained base, or "
        "generation 0 if there is no pretrained base.",
    )

    def check(self, config: Any) -> None:
        check_denoises(self.policy, config)

    def decides(self) -> tuple[str, ...]:
        return ("the negative guidance of the prediction",)

    def steer(self, at: At, model: Any) -> Steer:
        return Away(model, opened(at, self.reference), self.strength)
