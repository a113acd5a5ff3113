"""Drop near duplicates of samples or of real images."""

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
    """For each image, the position of an earlier kept image within distance `near`, or -1: int64 [n].

    The images have features [n, d] and are visited in order.

    >>> repeated(torch.tensor([[0.0], [0.9], [1.8], [1.8]]), 1.0).tolist()
    [-1, 0, -1, 2]
    """
    original, kept = np.full(len(features), -1), np.zeros(0, dtype=np.int64)
    for start in range(0, len(features), block):
        rows = np.arange(start, min(start + block, len(features)))
        if len(kept):
            distance, index = nearest_real(features[rows], features[kept])
            original[rows] = np.where(distance.numpy() <= near, kept[index.numpy()], -1)
        among = squared_distances(features[rows], features[rows]).sqrt().numpy()
        for i in range(len(rows)):
            if original[rows[i]] < 0:
                later = rows[i + 1 :]
                original[later] = np.where(
                    (original[later] < 0) & (among[i, i + 1 :] <= near), rows[i], original[later]
                )
        kept = np.concatenate([kept, rows[original[rows] < 0]])
    return original


@policy("deduplicate")
class Deduplicate(Featured):
    """Drops samples too close to an earlier kept sample or, with `real`, to a real training image.

    The threshold comes from the real images of generation 0: a share `rate` of them is at most this far from
    the nearest other real image, as in the measures `repeats` and `near_duplicates`. About this share of good
    samples is lost. More are lost if there are many more samples than real images. Exact copies are always
    dropped. Exact: no two kept samples are closer than the threshold.
    """

    source: ClassVar[str] = (
        "deduplication of training sets (Lee et al. 2107.06499; for diffusion Somepalli et al. 2305.20086)"
    )

    rate: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="Share of real images that count as too close to another real image, 0 to 1. It sets "
        "the threshold: towards 0, only closer copies are dropped.",
    )
    real: bool = Field(
        False,
        description="Also drop samples that are too close to an image of generation 0's training set; false "
        "= off.",
    )

    def select(self, at: At, candidates: Any) -> list[str | None]:
        extractor = at.extractor(self.extractor)
        features, real = candidates.features(extractor), candidates.real(extractor)[0]
        pairs = np.sort(real_spacing(real).double().numpy())[
            1::2
        ]  # two such close images are each other's nearest neighbour, so each small distance occurs twice
        near = float(np.quantile(pairs, self.rate, method="weibull"))
        reasons: list[str | None] = [None] * len(candidates)
        if self.real:
            distance, index = nearest_real(features, real)
            reasons = [
                f"nearly real image {i}" if d <= near else None
                for d, i in zip(distance.tolist(), index.tolist(), strict=True)
            ]
        rest = np.array([i for i, reason in enumerate(reasons) if reason is None], dtype=np.int64)
        for i, original in zip(rest, repeated(features[rest], near), strict=True):
            if original >= 0:
                reasons[i] = f"nearly sample {candidates.index[rest[original]]}"
        return reasons
