"""A different share of dropped conditions while a generation trains on samples."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from difflab.config import Train
from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.policies.interface import At, Policy


@policy("condition_drop")
class ConditionDrop(Policy):
    """Sets a different train.condition_dropout from generation `first` on.

    This is one half of ReDiFine. The other half is a guidance scale that decays during sampling
    (`guidance_schedule`). Exact: in these generations the training is that of a config with this
    condition_dropout.
    """

    source: ClassVar[str] = "Yoon et al., arXiv 2407.17493"

    first: int = Field(
        1,
        ge=0,
        description="First generation in which the policy acts; 0 = also when training on real images.",
    )
    share: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share of labels or captions that training replaces by the empty condition, 0 to below "
        "1; 0 = no dropout.",
    )

    def check(self, config: Any) -> None:
        if not config.conditional:
            raise ConfigError(
                "policies: condition_drop drops labels and captions, but this model is unconditional; set "
                "model.conditional=true"
            )
        if self.share == 0 and config.sample.guidance_scale != 1 and not config.text:
            raise ConfigError(
                "policies: condition_drop with share 0 trains no unconditional prediction, but "
                "sample.guidance_scale other than 1 needs one; raise share"
            )

    def decides(self) -> tuple[str, ...]:
        return ("train.condition_dropout",)

    def training(self, at: At, train: Train) -> Train:
        return train.model_copy(update={"condition_dropout": self.share})
