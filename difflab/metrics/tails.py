"""Whether the rare survives: `tail_recall` and `tail_coverage`, over the least dense tenth of the real images."""

from __future__ import annotations

import torch
from torch import Tensor

from difflab.metrics.base import Pair, PairMetric, Rows, measure
from difflab.metrics.manifold import _near_real, in_fake, radii, reached

TENTH = 10
"""One real image in so many is tail."""
LEAST = 10
"""Fewest images that make a tail."""


def tail_of(pair: Pair, real: Rows) -> Tensor:
    """Places among `real` of its tenth (rounded down) that lies farthest from its own k-th nearest neighbour there: int64."""
    radius = radii(pair.real, pair.once(_near_real), real, pair.neighbours)
    return radius.topk(len(radius) // TENTH).indices


def tail_rows(pair: Pair, real: Rows) -> Tensor:
    """The rows of the pair that are the tail of `real`: int64.

    >>> tail_rows(Pair(torch.arange(20.0).square().view(-1, 1), torch.zeros(1, 1)), slice(None)).sort().values
    tensor([18, 19])
    """
    return torch.arange(len(pair.real), device=pair.real.device)[real][tail_of(pair, real)]


class _Tail(PairMetric):
    unit = "share of tail images"
    range = (0.0, 1.0)
    better = "higher"

    @classmethod
    def least(cls, pair: Pair) -> int:
        """A tail of ten, and k neighbours besides the image itself."""
        return max(TENTH * LEAST, pair.neighbours + 1)


@measure("tail_recall")
class TailRecall(_Tail):
    """Share of the least dense tenth of real images that lie inside at least one ball of the samples.

    `recall` (Kynkaanniemi et al. 2019) over the tail only, with the same k: density is taken as the distance to the k-th nearest
    real image. Loops lose the tail first (Shumailov et al. 2023), when recall over all images has hardly moved. An image in
    the tail is far from all others by choice: between equal distributions it is covered less often than the rest, so read it
    against the floor. A resample picks the tenth anew among its own half. Outlying samples with huge balls inflate it, as recall.

    >>> TailRecall.of(Pair(torch.arange(100.0).view(-1, 1), torch.arange(100.0).view(-1, 1)))
    1.0
    """

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return in_fake(pair, tail_rows(pair, real), fake)


@measure("tail_coverage")
class TailCoverage(_Tail):
    """Share of the least dense tenth of real images whose own ball holds at least one sample.

    `coverage` (Naeem et al. 2020) over the tail only, with the same k and the tail of `tail_recall`. A tail image has a large ball, so that
    its own rarity does not count against it: between equal distributions its expectation is that of `coverage` to a few per cent
    (simulated in the tests), and coverage less this is what the tail has lost beyond the rest. It still tells small models apart where
    `tail_recall` is 0 from the start. A resample picks the tenth anew among its own half.

    >>> TailCoverage.of(Pair(torch.arange(100.0).view(-1, 1), torch.arange(100.0).view(-1, 1)))
    1.0
    """

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return float(reached(pair, real, fake)[tail_of(pair, real)].double().mean())
