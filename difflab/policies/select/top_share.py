"""Keep the samples with the highest rewards."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from difflab.config.policy_registry import policy
from difflab.policies.interface import At
from difflab.policies.select.common import Rewarded, Sized


@policy("top_share")
class TopShare(Sized, Rewarded):
    """Keeps a share or number of samples with the highest rewards, among all samples or within each class or
    prompt.

    This is truncation selection. Exact: the share or number that is kept is the requested one. If rewards
    are equal, the earlier sample is preferred.
    """

    source: ClassVar[str] = "truncation selection, as in filtering by an aesthetic or a CLIP score"
    why: ClassVar[str] = "its reward is too low"

    def pick(self, at: At, candidates: Any, n: int, group: str) -> np.ndarray:
        return np.argsort(-self.scores(at, candidates), kind="stable")[:n]
