"""A guidance scale that changes from generation to generation."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from difflab.config import Sample
from difflab.config.policy_registry import policy
from difflab.policies.interface import At, Policy
from difflab.policies.sample.common import check_guidance, check_scale


@policy("guidance_by_generation")
class GuidanceByGeneration(Policy):
    """Sets a different sample.guidance_scale in each generation.

    The scales are a list, or follow g_t = 1 + (start - 1) factor^t. With a factor below 1 the scale
    converges to 1, which is no guidance. Exact: the samples of generation t are those of a config with this
    guidance_scale.
    """

    scales: list[float] | None = Field(
        None,
        min_length=1,
        description="List of guidance scales. Generation t uses entry t, later generations the last entry; "
        "1 = no guidance; null = use factor.",
    )
    start: float | None = Field(
        None, ge=0, description="Guidance scale of generation 0; null = sample.guidance_scale."
    )
    factor: float | None = Field(
        None,
        ge=0,
        le=10,
        description="Factor that multiplies guidance_scale - 1 in every generation; 1 = constant.",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> GuidanceByGeneration:
        if (self.scales is None) == (self.factor is None):
            raise ValueError("set either scales (a list) or factor")
        if self.scales is not None and self.start is not None:
            raise ValueError("start can be set only with factor; a list starts with its first entry")
        if self.scales is not None and min(self.scales) < 0:
            raise ValueError(f"scales {self.scales}: a guidance scale must not be negative")
        return self

    def check(self, config: Any) -> None:
        check_guidance(self.policy, config)

    def check_model(self, model: Any) -> None:
        check_scale(self.policy, model)

    def decides(self) -> tuple[str, ...]:
        return ("the guidance scale",)

    def scale(self, generation: int, default: float) -> float:
        """The guidance scale of a generation. `default` replaces a start that is not set."""
        if self.scales is not None:
            return self.scales[min(generation, len(self.scales) - 1)]
        assert self.factor is not None
        return max(0.0, 1 + ((default if self.start is None else self.start) - 1) * self.factor**generation)

    def sampling(self, at: At, sample: Sample) -> Sample:
        return sample.model_copy(update={"guidance_scale": self.scale(at.generation, sample.guidance_scale)})
