"""A guidance scale that changes during sampling."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.models.steer import Steer
from difflab.policies.interface import At, Policy
from difflab.policies.sample.common import check_guidance, check_scale


class Schedule(Steer):
    """Sets the guidance scale of a step from the share of noise left."""

    def __init__(self, policy: GuidanceSchedule):
        self.policy = policy

    def guidance(self, scale: float, share: float) -> float:
        return self.policy.scale(scale, share)


@policy("guidance_schedule")
class GuidanceSchedule(Policy):
    """The guidance scale g is a function of the share s of noise left, from s = 1 (pure noise) to s = 0 (no
    noise).

    exponential: g = start^s end^(1-s), the schedule of ReDiFine, whose other half is the policy
    `condition_drop`. linear: g = s start + (1-s) end. interval: g = start for s in [low, high], else end
    (Kynkaanniemi et al. 2404.07724, who give the limits as noise levels sigma). s is the timestep divided by
    model.train_timesteps. Exact: the samples are those of a sampling loop that uses this g in every step.
    """

    source = "Yoon et al. 2407.17493; Kynkaanniemi et al. 2404.07724"

    kind: Literal["exponential", "linear", "interval"] = Field(
        "exponential", description="The function g(s); see above."
    )
    start: float | None = Field(
        None,
        ge=0,
        description="Guidance scale at pure noise; with kind=interval, the scale inside the interval; 1 = "
        "no guidance; null = sample.guidance_scale.",
    )
    end: float = Field(
        1.0,
        ge=0,
        description="Guidance scale without noise; with kind=interval, the scale outside the interval; 1 = "
        "no guidance.",
    )
    low: float = Field(
        0.0,
        ge=0,
        le=1,
        description="kind=interval only: lower limit of the interval, a share of noise from 0 to 1; 0 = "
        "until the end of sampling.",
    )
    high: float = Field(
        1.0,
        ge=0,
        le=1,
        description="kind=interval only: upper limit of the interval, a share of noise from 0 to 1; 1 = "
        "from the beginning of sampling.",
    )

    @model_validator(mode="after")
    def _sensible(self) -> GuidanceSchedule:
        if self.kind != "interval" and (self.low, self.high) != (0, 1):
            raise ValueError(
                f"low and high are the limits of kind=interval and have no meaning for {self.kind}"
            )
        if self.low >= self.high:
            raise ValueError(
                f"low {self.low:g} is not below high {self.high:g}: the interval would contain no step"
            )
        if self.kind == "exponential" and 0 in (self.start, self.end):
            raise ValueError(
                "start and end of kind=exponential must not be 0; use kind=linear or a small number"
            )
        return self

    def check(self, config: Any) -> None:
        check_guidance(self.policy, config)
        varies = any(other.policy == "guidance_by_generation" for other in config.policies)
        if self.start is None and not varies:
            if config.sample.guidance_scale == self.end:
                raise ConfigError(
                    f"policies: guidance_schedule goes from {self.end:g} to {self.end:g}; set start, end or "
                    "sample.guidance_scale"
                )
            if config.sample.guidance_scale == 0 and self.kind == "exponential":
                raise ConfigError(
                    "policies: guidance_schedule: kind=exponential cannot start at sample.guidance_scale=0; "
                    "set start or kind=linear"
                )

    def check_model(self, model: Any) -> None:
        check_scale(self.policy, model)

    def decides(self) -> tuple[str, ...]:
        return (
            ("the guidance schedule",)
            if self.start is None
            else ("the guidance schedule", "the guidance scale")
        )

    def scale(self, default: float, share: float) -> float:
        """The guidance scale when `share` of the noise is left.

        `default` replaces a start that is not set.
        """
        start = default if self.start is None else self.start
        if self.kind == "interval":
            return start if self.low <= share <= self.high else self.end
        return (
            start**share * self.end ** (1 - share)
            if self.kind == "exponential"
            else share * start + (1 - share) * self.end
        )

    def steer(self, at: At, model: Any) -> Steer:
        return Schedule(self)
