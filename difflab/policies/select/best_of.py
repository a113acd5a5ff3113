"""Keep the best of every k samples."""

from __future__ import annotations

from typing import ClassVar

from difflab.config.policy_registry import policy
from difflab.policies.select.common import OneOfK


@policy("best_of")
class BestOf(OneOfK):
    """The sample with the highest reward in each random group of k samples is kept (best of k).

    Groups are formed within the generation, a class or a prompt (`within`). This is the hard choice among k
    of Ferbach et al. 2407.09499. Samples of an incomplete group are dropped; ties are broken at random.
    Exact: if rewards have the distribution function F, those of kept samples have F^k, and after t
    generations F^(k^t).
    """

    source: ClassVar[str] = "Ferbach et al., arXiv 2407.09499"
