"""A guidance scale that changes from generation to generation."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from difflab.config import Sample
from difflab.config.policy_registry import policy
from difflab.policies.interface import At, Policy
from difflab.policies.sample.common import check_guidance


@policy("guidance_by_generation")
class GuidanceByGeneration(Policy):
    """Another sample.guidance_scale in each generation.

    The scales are a list, or g_t = 1 + (start - 1) factor^t. With a factor below 1 the scale goes to 1, which
    is no guidance. Exact: the samples of generation t are those of a config with this guidance_scale.
    """

    scales: list[float] | None = Field(
        None,
        min_length=1,
        description="Generation t's guidance scale is its t-th entry, the last one repeated; 1 = no "
        "guidance; null = by factor.",
    )
    start: float | None = Field(
        None, ge=0, description="Guidance scale of generation 0; null = sample.guidance_scale."
    )
    factor: float | None = Field(
        None,
        ge=0,
        le=10,
        description="By which guidance_scale - 1 is multiplied in every generation; 1 = constant.",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> GuidanceByGeneration:
        if (self.scales is None) == (self.factor is None):
            raise ValueError("give either scales, a list, or factor")
        if self.scales is not None and self.start is not None:
            raise ValueError("start belongs to factor; a list starts with its first entry")
        if self.scales is not None and min(self.scales) < 0:
            raise ValueError(f"scales {self.scales}: a guidance scale is not negative")
        return self

    def check(self, config: Any) -> None:
        check_guidance(self.policy, config)

    def decides(self) -> tuple[str, ...]:
        return ("the guidance scale",)

    def scale(self, generation: int, given: float) -> float:
        """The guidance scale of a generation; `given` stands in for a start that is not set."""
        if self.scales is not None:
            return self.scales[min(generation, len(self.scales) - 1)]
        assert self.factor is not None
        return max(0.0, 1 + ((given if self.start is None else self.start) - 1) * self.factor**generation)

    def sampling(self, at: At, how: Sample) -> Sample:
        return how.model_copy(update={"guidance_scale": self.scale(at.generation, how.guidance_scale)})
