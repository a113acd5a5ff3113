"""Keep samples that lie as far apart as they can."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator

from difflab.config.policy_registry import policy
from difflab.metrics.memorisation import nearest_real
from difflab.policies.interface import At
from difflab.policies.select.common import Nearest, Spread


def farthest(features: torch.Tensor, n: int, apart: torch.Tensor | None = None) -> np.ndarray:
    """Positions of n of the images [m, d], int64 [n], in the order of selection.

    Each one is the farthest from those selected so far; of equals the first.

    `apart`: distances to other images to stay away from, float [m]; None = the first image comes first.

    >>> farthest(torch.tensor([[0.0], [1.0], [9.0], [4.0]]), 3).tolist()
    [0, 2, 3]
    """
    nearest = Nearest(features)
    if apart is not None:
        nearest.squared = apart.double().square()
    chosen: list[int] = []
    for _ in range(n):
        chosen.append(int(nearest.squared.argmax()))
        nearest.add(chosen[-1])
        nearest.squared[chosen] = -math.inf
    return np.array(chosen, dtype=np.int64)


@policy("farthest")
class Farthest(Spread):
    """Greedy farthest-point selection in feature space.

    This is the greedy filter of Shi et al. 2509.16499. The first sample is kept (samples are in random
    order), then repeatedly the sample that is farthest from its nearest kept sample. With `stage: mix` the
    training set is selected from all real images and samples so far, as in their accumulating loop. Outliers,
    such as broken images, are preferred, as they are far from all others. Time is proportional to the number
    of samples times the number of kept ones. Exact: the smallest distance in the set is at least half of that
    in the best set of its size.
    """

    source: ClassVar[str] = "Shi et al., arXiv 2509.16499"
    why: ClassVar[str] = "too near to others that are kept"

    away_from_real: bool = Field(
        False,
        description="Also keep away from generation 0's training images, from the first sample on; false = "
        "off.",
    )

    @model_validator(mode="after")
    def _once(self) -> Farthest:
        if self.away_from_real and self.stage == "mix":
            raise ValueError(
                "away_from_real has no meaning with stage: mix, where real images are chosen among"
            )
        return self

    def spread(self, at: At, candidates: Any, features: torch.Tensor, n: int) -> np.ndarray:
        if not self.away_from_real:
            return farthest(features, n)
        return farthest(
            features, n, nearest_real(features, candidates.real(at.extractor(self.extractor))[0])[0]
        )
