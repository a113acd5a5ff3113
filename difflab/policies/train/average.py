"""Average the trained weights with those of the base or of the previous generation."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.policies.interface import At, Policy
from difflab.policies.train.interpolation import check_line, towards


@policy("average")
class Average(Policy):
    """The trained weights are averaged with other weights before they are saved.

    w = (1 - share) w_t + share w_other. With the base this is WiSE-FT (Wortsman et al. 2109.01903). With
    generation t-1, whose weights are averages too, it is a moving average over generations with decay
    `share`. With LoRA, the product of the two factors is scaled, which gives the same weights. Exact for the
    gaussian family, whose weights are mean and covariance: with maximum-likelihood fits and the regime
    replace, the variance after t fits is (1 - 1/n) (1 - (1 - share)/n)^(t-1).
    """

    source: ClassVar[str] = "Wortsman et al., arXiv 2109.01903"

    first: int = Field(
        1,
        ge=1,
        description="First generation in which the policy acts. Generation 0 has no previous generation.",
    )
    share: float = Field(
        ge=0, le=1, description="Share of the other weights in the average, 0 to 1; 0 = off."
    )
    to: Literal["base", "previous"] = Field(
        "previous",
        description="The other weights: base = the pretrained base, or generation 0 if there is no "
        "pretrained base; previous = generation t-1.",
    )

    def check(self, config: Any) -> None:
        check_line(config, self.policy, self.to)

    def decides(self) -> tuple[str, ...]:
        return (f"the average with {self.to}",)

    def weights(self, at: At, model: Any) -> None:
        towards(at, model, self.to, self.share)
