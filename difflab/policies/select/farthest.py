"""Keep samples that lie far apart from each other."""

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

    Each selected image is the one farthest from all images selected so far. Of equally far images, the first
    is selected.

    `apart`: distances to other images that are avoided, float [m]; None = the selection starts with the
    first image.

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
    training set is selected from all real images and samples so far, as in their accumulating loop. The
    policy prefers outliers, such as broken images, because they are far from all others. Time is proportional
    to the number of samples times the number of kept ones. Exact: the smallest distance within the kept set
    is at least half of the largest possible smallest distance of a set of this size.
    """

    source: ClassVar[str] = "Shi et al., arXiv 2509.16499"
    why: ClassVar[str] = "too near to others that are kept"

    away_from_real: bool = Field(
        False,
        description="Also select samples far from the images of generation 0's training set; false = off.",
    )

    @model_validator(mode="after")
    def _once(self) -> Farthest:
        if self.away_from_real and self.stage == "mix":
            raise ValueError("away_from_real has no effect with stage: mix, which selects real images too")
        return self

    def spread(self, at: At, candidates: Any, features: torch.Tensor, n: int) -> np.ndarray:
        if not self.away_from_real:
            return farthest(features, n)
        return farthest(
            features, n, nearest_real(features, candidates.real(at.extractor(self.extractor))[0])[0]
        )
