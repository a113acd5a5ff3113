"""Keep the best of every k samples."""

from __future__ import annotations

from typing import ClassVar

from difflab.config.policy_registry import policy
from difflab.policies.select.common import OneOfK


@policy("best_of")
class BestOf(OneOfK):
    """Samples (of one class or prompt, by `within`) form groups of k at random, and of each the one with the highest reward is kept.

    The hard choice among k of Ferbach et al. 2407.09499, and what picking the best of k pictures does. Exact: the reward of what is kept is
    distributed as F^k, so after t generations as F^(k^t). What is left over of an incomplete group is dropped, ties are broken at random.
    """

    source: ClassVar[str] = "Ferbach et al., arXiv 2407.09499"
