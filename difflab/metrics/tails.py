"""Whether the rare survives: `tail_recall`, recall over the least dense tenth of the real images."""

from __future__ import annotations

import torch
from torch import Tensor

from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows
from difflab.metrics.precision_recall import _near_real, in_fake, radii

TENTH = 10
"""One real image in so many is tail."""
LEAST = 10
"""Fewest images that make a tail."""


def tail_rows(pair: Pair, real: Rows) -> Tensor:
    """Rows of the tenth of `real` (rounded down) that lies farthest from its own k-th nearest neighbour among `real`: int64.

    >>> tail_rows(Pair(torch.arange(20.0).square().view(-1, 1), torch.zeros(1, 1)), slice(None)).sort().values
    tensor([18, 19])
    """
    radius = radii(pair.real, pair.once(_near_real), real, pair.neighbours)
    rows = torch.arange(len(pair.real), device=pair.real.device)[real]
    return rows[radius.topk(len(radius) // TENTH).indices]


@measure("tail_recall")
class TailRecall(PairMetric):
    """Share of the least dense tenth of real images that lie inside at least one ball of the samples.

    `recall` (Kynkaanniemi et al. 2019) over the tail only, with the same k: density is taken as the distance to the k-th nearest
    real image. Loops lose the tail first (Shumailov et al. 2023), when recall over all images has hardly moved. An image in
    the tail is far from all others by choice: between equal distributions it is covered less often than the rest, so read it
    against the floor. A resample picks the tenth anew among its own half. Outlying samples with huge balls inflate it, as recall. There is no
    coverage of the tail beside it: the ball of a rare image is so large that it reaches into the crowd, and samples of the crowd cover it.

    >>> TailRecall.of(Pair(torch.arange(100.0).view(-1, 1), torch.arange(100.0).view(-1, 1)))
    1.0
    """

    unit = "share of tail images"
    range = (0.0, 1.0)
    better = "higher"

    @classmethod
    def least(cls, pair: Pair) -> int:
        """A tail of ten, and k neighbours besides the image itself."""
        return max(TENTH * LEAST, pair.neighbours + 1)

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return in_fake(pair, tail_rows(pair, real), fake)
