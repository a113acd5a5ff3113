"""Keep one of every k samples, with a probability that rises with its reward."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.policies.interface import At
from difflab.policies.select.common import OneOfK


@policy("luce")
class Luce(OneOfK):
    """One sample of each random group of k is kept, with probability proportional to exp(reward /
    temperature).

    This is the curation of Ferbach et al. 2407.09499 (Luce's choice rule; Bradley-Terry for k = 2). Their
    CIFAR-10 experiments multiply a probability by gamma = 1 / temperature. Exact: for large k, generation t
    has the density p exp(t reward / temperature), normalised.
    """

    source: ClassVar[str] = "Ferbach et al., arXiv 2407.09499"

    temperature: float = Field(
        1.0,
        gt=0,
        description="Temperature, in units of the reward; near 0 = the best of k is kept, very large = a "
        "random one is kept (off).",
    )

    def prefer(self, at: At, scores: np.ndarray, group: str) -> np.ndarray:
        return scores / self.temperature + at.rng("choice", group).gumbel(
            size=scores.shape
        )  # the largest entry is a draw by Luce's choice rule (Gumbel-max trick)
