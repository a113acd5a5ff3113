"""The stochasticity of DDIM."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.models.steer import Steer
from difflab.policies.interface import At, Policy
from difflab.policies.sample.common import check_denoises

LARGEST = 1 - 1e-6
"""The largest eta that the scheduler gets.

At eta 1 and pure noise, diffusers takes the square root of a difference that is 0 up to rounding. The result
is NaN if that difference is negative.
"""


class Eta(Steer):
    """Sets the argument eta of a scheduler's step."""

    def __init__(self, eta: float):
        self.eta = eta

    def arguments(self, keywords: dict[str, Any], accepted: Sequence[str]) -> dict[str, Any]:
        return {**keywords, "eta": min(self.eta, LARGEST)}


@policy("stochasticity")
class Stochasticity(Policy):
    """Sets eta of DDIM, the share of fresh noise in each step.

    0 is the deterministic sampler, 1 is ancestral sampling (Song et al. 2010.02502, eq. 16). Exact: with the
    true score and many steps, the distribution of the samples does not depend on eta. With a learned score, a
    larger eta corrects more of the errors of earlier steps. Every image has its own random stream.
    """

    source = "Song et al. 2010.02502"

    eta: float = Field(
        ge=0,
        le=1,
        description="Share of the noise that is drawn again in each step, 0 to 1; 0 = off, the default of "
        "DDIM.",
    )

    def check(self, config: Any) -> None:
        import diffusers

        check_denoises(self.policy, config)
        kind = getattr(diffusers, config.sample.scheduler, None)
        if "eta" not in inspect.signature(getattr(kind, "step", lambda: None)).parameters:
            raise ConfigError(
                f"policies: stochasticity sets eta, but {config.sample.scheduler} has no argument eta; use "
                "sample.scheduler=DDIMScheduler"
            )

    def decides(self) -> tuple[str, ...]:
        return ("eta of the scheduler",)

    def steer(self, at: At, model: Any) -> Steer:
        return Eta(self.eta)
