"""Keep samples that differ from all kept ones by more than a threshold, which falls until there are enough."""

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
    """Positions of n of the images [m, d] in the order of choice. Passes over all of them accept what lies further than tau from all
    accepted ones; after each pass tau is multiplied by `decay`. Fewer than n where the rest are copies.

    >>> threshold_decay(torch.tensor([[0.0], [1.0], [9.0], [4.0]]), 3, tau=8.0, decay=0.4).tolist()
    [0, 2, 3]
    """
    nearest = Nearest(features)
    chosen: list[int] = []
    while len(chosen) < n:
        at = 0
        while len(chosen) < n:
            ahead = (nearest.squared[at:] > tau * tau).nonzero()
            if not len(ahead):
                break
            at += int(ahead[0])
            chosen.append(at)
            nearest.add(at)
        furthest = float(nearest.squared.max())
        if not furthest:
            break
        tau *= decay
        while tau * tau >= furthest:  # passes that accept nothing
            tau *= decay
    return np.array(chosen, dtype=np.int64)


@policy("threshold_decay")
class ThresholdDecay(Spread):
    """Accepts a sample if its distance to all accepted ones is above tau; at the end of a pass tau falls, until enough are accepted.

    The Threshold Decay Filter of Shi et al. 2509.16499; they start DINOv2 features at 60 and pixels in 0..255 at 2000 and decay by .95, or by
    .8 over all generations so far (here `stage: mix`). Unlike `farthest` it takes what comes first, so that it prefers outliers less.
    Exact: no two kept samples are nearer than the last tau. Exact copies never fill a set: too few that differ are an error.
    """

    source: ClassVar[str] = "Shi et al., arXiv 2509.16499"
    why: ClassVar[str] = "nearer than the threshold to others that are kept"

    tau: float | None = Field(
        None,
        gt=0,
        description="First threshold, a feature distance; null = above every distance, so that nothing is tuned.",
    )
    decay: float = Field(0.95, gt=0, lt=1, description="Factor of the threshold at the end of a pass.")

    def spread(self, at: At, candidates: Any, features: torch.Tensor, n: int) -> np.ndarray:
        widest = 2 * float((features.double() - features.double().mean(0)).norm(dim=1).max()) or 1.0
        chosen = threshold_decay(features, n, self.tau or widest, self.decay)
        if len(chosen) < n:
            raise ConfigError(
                f"policies: threshold_decay wants {n} of {len(features)} images at generation {at.generation}, "
                f"but only {len(chosen)} differ, the others are exact copies of them; ask for fewer"
            )
        return chosen
