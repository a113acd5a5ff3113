"""Keep some samples at random."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from difflab.config.policy_registry import policy
from difflab.policies.interface import At
from difflab.policies.select.common import Sized


@policy("random")
class Random(Sized):
    """Keeps a share or a number of the samples at random: the control of every other selector, with an equally large training set.

    Exact: how many are kept; which ones depends on nothing but seed, generation and place in the list. (`best_of`, `luce`, `top_share`
    and `diverse` have a closer control of the same shape: `reward: chance`.)
    """

    source: ClassVar[str] = "the matched budget of any comparison of selectors"
    why: ClassVar[str] = "not drawn"

    def pick(self, at: At, candidates: Any, n: int, group: str) -> np.ndarray:
        return at.rng(group).permutation(len(candidates))[:n]
