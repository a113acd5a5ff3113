"""Keep samples that are farther than a threshold from all kept samples.

The threshold falls until enough are kept.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.policies.interface import At
from difflab.policies.select.common import Nearest, Spread


def threshold_decay(features: torch.Tensor, n: int, tau: float, decay: float) -> np.ndarray:
    """Positions of n of the images [m, d], in the order of selection; fewer than n if the rest are copies.

    Each pass over all images accepts those that are farther than tau from all accepted images. After each
    pass tau is multiplied by `decay`.

    >>> threshold_decay(torch.tensor([[0.0], [1.0], [9.0], [4.0]]), 3, tau=8.0, decay=0.4).tolist()
    [0, 2, 3]
    """
    nearest = Nearest(features)
    chosen: list[int] = []
    while len(chosen) < n:
        position = 0
        while len(chosen) < n:
            ahead = (nearest.squared[position:] > tau * tau).nonzero()
            if not len(ahead):
                break
            position += int(ahead[0])
            chosen.append(position)
            nearest.add(position)
        furthest = float(nearest.squared.max())
        if not furthest:
            break
        tau *= decay
        while tau * tau >= furthest:  # skip passes that would accept nothing
            tau *= decay
    return np.array(chosen, dtype=np.int64)


@policy("threshold_decay")
class ThresholdDecay(Spread):
    """Accepts samples that are farther than tau from all accepted samples.

    tau falls after each pass over the samples, until enough samples are accepted. This is the Threshold
    Decay Filter of Shi et al. 2509.16499. They start at 60 for DINOv2 features and 2000 for pixels in 0..255,
    with a decay of .95, or of .8 over all generations so far (here `stage: mix`). Unlike `farthest`, the
    policy visits samples in their order, so it prefers outliers less. Exact: no two kept samples are closer
    than the last tau. Exact copies are never accepted, and too few distinct samples are an error.
    """

    source: ClassVar[str] = "Shi et al., arXiv 2509.16499"
    why: ClassVar[str] = "closer than the threshold to a kept sample"

    tau: float | None = Field(
        None,
        gt=0,
        description="First threshold, a feature distance; null = a value above all distances, which needs "
        "no tuning.",
    )
    decay: float = Field(
        0.95, gt=0, lt=1, description="Factor that multiplies the threshold after each pass, 0 to 1."
    )

    def spread(self, at: At, candidates: Any, features: torch.Tensor, n: int) -> np.ndarray:
        widest = 2 * float((features.double() - features.double().mean(0)).norm(dim=1).max()) or 1.0
        chosen = threshold_decay(features, n, self.tau or widest, self.decay)
        if len(chosen) < n:
            raise ConfigError(
                f"policies: threshold_decay must keep {n} of {len(features)} images in generation "
                f"{at.generation}, but only {len(chosen)} are distinct; the others are exact copies; "
                "keep fewer images"
            )
        return chosen
