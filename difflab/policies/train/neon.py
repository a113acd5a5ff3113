"""Negative extrapolation of weights."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.policies.interface import At, Policy
from difflab.policies.train.interpolation import check_line, towards


@policy("neon")
class Neon(Policy):
    """Extrapolates the weights in the direction opposite to the change that training on synthetic images
    made.

    w = (1 + strength) w_r - strength w_s. w_r are the weights that the training of generation t started from
    (train.start_from), and w_s are the weights at its end. Neon assumes that training on synthetic images
    moves a model in the direction in which it gets worse. It helps if sampling favours modes (guidance, few
    steps). Exact for the gaussian family, whose weights are mean and covariance: if the sampler multiplies
    the variance by `bias` and maximum-likelihood fits use n samples, the expected variance is multiplied by 1
    + strength (1 - bias (1 - 1/n)) per generation.
    """

    source: ClassVar[str] = "Alemohammad et al., arXiv 2510.03597"

    first: int = Field(
        1,
        ge=1,
        description="First generation in which the policy acts. Generation 0 is trained on real images.",
    )
    strength: float = Field(
        0.5,
        ge=0,
        description="Extrapolation strength (w of the paper), in units of the change that training made; 0 "
        "= the weights before training.",
    )

    def check(self, config: Any) -> None:
        if config.train.start_from == "scratch":
            raise ConfigError(
                "policies: neon extrapolates from the weights that a training started from, but "
                "train.start_from=scratch starts from random weights; set train.start_from to base or "
                "previous"
            )
        if config.exact and config.model.family != "gaussian":
            raise ConfigError(
                f"policies: neon would move the probabilities of the family {config.model.family} out of 0 "
                "to 1; of the exact families it works only with gaussian"
            )
        check_line(config, self.policy, config.train.start_from)

    def decides(self) -> tuple[str, ...]:
        return ("the extrapolation of weights",)

    def weights(self, at: At, model: Any) -> None:
        towards(at, model, at.config.train.start_from, 1 + self.strength)
