"""Survival of rare images: `tail_recall`, recall over the least dense tenth of the real images."""

from __future__ import annotations

import torch
from torch import Tensor

from difflab.metrics.influence import Influence
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows
from difflab.metrics.precision_recall import in_fake, inside_fake, near_real, radii

TENTH = 10
"""One real image in so many is tail."""
LEAST = 10
"""Fewest images that make a tail."""


def tail_rows(pair: Pair, real: Rows) -> Tensor:
    """Rows of the tenth of `real` (rounded down) that is farthest from its k-th nearest neighbour among
    `real`: int64.

    >>> tail_rows(Pair(torch.arange(20.0).square().view(-1, 1), torch.zeros(1, 1)), slice(None)).sort().values
    tensor([18, 19])
    """
    radius = radii(pair.real, pair.once(near_real), real, pair.neighbours)
    rows = torch.arange(len(pair.real), device=pair.real.device)[real]
    return rows[radius.topk(len(radius) // TENTH).indices]


@measure("tail_recall")
class TailRecall(PairMetric):
    """Share of the least dense tenth of real images that lie inside the ball of at least one sample.

    `recall` (Kynkaanniemi et al. 2019) over the tail only, with the same k. Density is the distance to
    the k-th nearest real image. Loops lose the tail first (Shumailov et al. 2023), when recall over all
    images has hardly changed. Images in the tail are by definition far from all others: between equal
    distributions they are covered less often than the rest, so compare with the floor. Each resample
    determines the tenth anew from its own half. A sample far from all others has a large radius. It covers
    many real images and inflates this measure, as it inflates recall. A coverage of the tail would not help:
    the radius of a rare image is so large that it reaches into dense regions, whose samples then cover it.

    >>> TailRecall.of(Pair(torch.arange(100.0).view(-1, 1), torch.arange(100.0).view(-1, 1)))
    1.0
    """

    unit = "share of tail images"
    range = (0.0, 1.0)
    better = "higher"
    topic = "Tails and likelihood"

    @classmethod
    def least(cls, pair: Pair) -> int:
        """A tail of ten images; also k neighbours and the image itself."""
        return max(TENTH * LEAST, pair.neighbours + 1)

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return in_fake(pair, tail_rows(pair, real), fake)

    @classmethod
    def counted(cls, pair: Pair) -> int:
        """The images of the tail."""
        return len(pair.real) // TENTH

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        """A real image counts as it is covered, a sample by the real images that no other one covers.

        The second-order term is that of the real images with one ball, which depend on an image and a sample
        together, and of those with two balls, which depend on two samples.
        """
        rows = tail_rows(pair, real)
        inside = torch.cat(list(inside_fake(pair, rows, fake)))
        balls, n = inside.sum(1), len(rows)
        covered = (balls > 0).double()
        of_real = covered.new_zeros(len(pair.real))
        of_real[rows] = (covered - covered.mean()) / n
        alone = inside[balls == 1].sum(0).double()
        of_fake = (alone - alone.mean()) / n
        return Influence(of_real[real], of_fake, int(((balls == 1) | (balls == 2)).sum()) / n**2)
