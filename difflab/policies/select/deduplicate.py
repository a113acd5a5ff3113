"""Drop samples that nearly repeat another one, or a real image."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.metrics.distances import squared_distances
from difflab.metrics.memorisation import nearest_real
from difflab.policies.interface import At
from difflab.policies.select.common import Featured, real_spacing


def repeated(features: torch.Tensor, near: float, block: int = 512) -> np.ndarray:
    """For each image [n, d], in order, the earlier kept one that lies within `near` of it, int64 [n]; -1 = there is none, it is kept.

    >>> repeated(torch.tensor([[0.0], [0.9], [1.8], [1.8]]), 1.0).tolist()
    [-1, 0, -1, 2]
    """
    of, kept = np.full(len(features), -1), np.zeros(0, dtype=np.int64)
    for start in range(0, len(features), block):
        own = np.arange(start, min(start + block, len(features)))
        if len(kept):
            distance, index = nearest_real(features[own], features[kept])
            of[own] = np.where(distance.numpy() <= near, kept[index.numpy()], -1)
        among = squared_distances(features[own], features[own]).sqrt().numpy()
        for i in range(len(own)):
            if of[own[i]] < 0:
                later = own[i + 1 :]
                of[later] = np.where((of[later] < 0) & (among[i, i + 1 :] <= near), own[i], of[later])
        kept = np.concatenate([kept, own[of[own] < 0]])
    return of


@policy("deduplicate")
class Deduplicate(Featured):
    """Drops samples as near to an earlier kept one (with `real` also to a training image of generation 0) as real images hardly ever are to each other.

    How near that is comes from the real images: `rate` of them lie as near to their nearest other one, as in the measures `repeats` and
    `near_duplicates`; so about that share of honest samples is lost, more when there are many more samples than real images, as
    nearest distances shrink. Exact copies are always dropped. Exact: of the kept samples no two are that near.
    """

    source: ClassVar[str] = (
        "deduplication of training sets (Lee et al. 2107.06499; for diffusion Somepalli et al. 2305.20086)"
    )

    rate: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="Share of real images that count as too near to another one; towards 0 only ever nearer copies.",
    )
    real: bool = Field(
        False,
        description="Also drop samples that nearly repeat an image of generation 0's training set; false = off.",
    )

    def select(self, at: At, candidates: Any) -> list[str | None]:
        extractor = at.extractor(self.extractor)
        features, real = candidates.features(extractor), candidates.real(extractor)[0]
        pairs = np.sort(real_spacing(real).double().numpy())[
            1::2
        ]  # two images that near are each other's nearest: such distances come twice
        near = float(np.quantile(pairs, self.rate, method="weibull"))
        reasons: list[str | None] = [None] * len(candidates)
        if self.real:
            distance, index = nearest_real(features, real)
            reasons = [
                f"nearly real image {i}" if d <= near else None
                for d, i in zip(distance.tolist(), index.tolist(), strict=True)
            ]
        left = np.array([i for i, reason in enumerate(reasons) if reason is None], dtype=np.int64)
        for i, of in zip(left, repeated(features[left], near), strict=True):
            if of >= 0:
                reasons[i] = f"nearly sample {candidates.index[left[of]]}"
        return reasons
