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
    """Extrapolates the weights away from where training on synthetic images moved them.

    w = (1 + strength) w_r - strength w_s. w_r are the weights that the training of generation t started from
    (train.start_from), w_s the weights that it reached. Neon takes training on synthetic images as the
    direction in which a model gets worse. It helps if sampling favours modes (guidance, few steps). Exact on
    the gaussian family, whose weights are mean and covariance: if the sampler multiplies the variance by
    `bias` and maximum-likelihood fits use n samples, the expected variance is multiplied by 1 + strength (1 -
    bias (1 - 1/n)) per generation.
    """

    source: ClassVar[str] = "Alemohammad et al., arXiv 2510.03597"

    first: int = Field(
        1, ge=1, description="First generation in which it acts; generation 0 is trained on real images."
    )
    strength: float = Field(
        0.5,
        ge=0,
        description="How far beyond the start, in units of the step that training made (w of the paper); 0 "
        "= back at the start.",
    )

    def check(self, config: Any) -> None:
        if config.train.start_from == "scratch":
            raise ConfigError(
                "policies: neon goes back beyond what a training started from, and new weights know nothing; "
                "set train.start_from to base or previous"
            )
        if config.exact and config.model.family != "gaussian":
            raise ConfigError(
                f"policies: neon would lead the shares of the family {config.model.family} out of 0 to 1; of "
                "the exact families it works with gaussian"
            )
        check_line(config, self.policy, config.train.start_from)

    def decides(self) -> tuple[str, ...]:
        return ("how far weights go beyond the start",)

    def weights(self, at: At, model: Any) -> None:
        towards(at, model, at.config.train.start_from, 1 + self.strength)
