"""Keep some samples at random."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from difflab.config.policy_registry import policy
from difflab.policies.interface import At
from difflab.policies.select.common import Sized


@policy("random")
class Random(Sized):
    """Keeps a random share or number of the samples.

    This is the control of every other selector: the training set has the same size. Exact: the share or
    number that is kept is the requested one. The choice depends only on the seed, the generation and the
    position in the list. The selectors `best_of`, `luce`, `top_share` and `diverse` have their own control,
    `reward: chance`.
    """

    source: ClassVar[str] = "the control of equal size in comparisons of selectors"
    why: ClassVar[str] = "not drawn"

    def pick(self, at: At, candidates: Any, n: int, group: str) -> np.ndarray:
        return at.rng(group).permutation(len(candidates))[:n]
