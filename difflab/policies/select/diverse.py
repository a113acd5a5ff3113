"""Keep at most a few samples of each neighbourhood."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.metrics.memorisation import nearest_real
from difflab.policies import rewards
from difflab.policies.interface import At
from difflab.policies.select.common import Rewarded, groups


@policy("diverse")
class Diverse(Rewarded):
    """At most k samples of each neighbourhood are kept, those with the highest reward.

    The neighbourhood of a sample is the nearest real image of generation 0's training set, or its class or
    prompt. Exact: no neighbourhood has more than k samples; empty neighbourhoods stay empty.
    """

    source: ClassVar[str] = "quotas per cluster, as in balanced data curation (Vo et al. 2405.15613)"

    k: int = Field(
        ge=1, description="Largest number of samples of one neighbourhood that are kept; sample.count = off."
    )
    per: Literal["real", "class", "prompt"] = Field(
        "real",
        description="What defines a neighbourhood: the nearest real training image, the requested class, or "
        "the requested prompt.",
    )
    reward: str = Field(
        "chance",
        description="Name of the reward that ranks the samples of a neighbourhood; "
        "difflab/policies/rewards.py lists all rewards. chance = random samples are kept.",
    )
    extractor: str | None = Field(
        None,
        description="The extractor of measure.extractors whose features give the nearest real image; null = "
        "the extractor of the class judge.",
    )

    def check(self, config: Any) -> None:
        super().check(config)
        if self.per == "real":
            if config.exact:
                raise ConfigError(
                    "policies: diverse compares images, but the samples of "
                    f"model.family={config.model.family} are numbers"
                )
            rewards.check_features(config, self.policy, self.extractor)
        elif not (config.conditional and (config.text or self.per == "class")):
            raise ConfigError(
                f"policies: diverse: the samples of this model have no requested {self.per}; use per: real"
            )

    def select(self, at: At, candidates: Any) -> list[str | None]:
        reasons: list[str | None] = [None] * len(candidates)
        best_first = np.argsort(-self.scores(at, candidates), kind="stable")
        rank = np.argsort(best_first)
        for name, members in self.neighbourhoods(at, candidates):
            for i in members[np.argsort(rank[members])][self.k :]:
                reasons[i] = f"{self.k} others of {name} are kept"
        return reasons

    def neighbourhoods(self, at: At, candidates: Any) -> list[tuple[str, np.ndarray]]:
        """The name of each neighbourhood and the positions of its candidates."""
        if self.per != "real":
            return list(groups(candidates, self.per))
        extractor = at.extractor(self.extractor)
        nearest = nearest_real(candidates.features(extractor), candidates.real(extractor)[0])[1].numpy()
        return [
            (f"the neighbourhood of real image {i}", np.flatnonzero(nearest == i)) for i in np.unique(nearest)
        ]
