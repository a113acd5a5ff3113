"""Differential entropy of the samples from nearest neighbours: `knn_entropy`.

    H = psi(n) - psi(k) + log c_d + (d/n) sum_i log eps_i          Kozachenko & Leonenko 1987

eps_i is the distance from sample i to its k-th nearest other sample, c_d the volume of the unit ball in d dimensions. Shi et al.
2025 (arXiv 2509.16499) take it with k = 1 and find that it tells a loop's turn from generalising to memorising.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows
from difflab.metrics.precision_recall import Near, _near_fake, nearest_others, radii


def knn_entropy(x_ND: Tensor, k: int = 1) -> float:
    """Kozachenko-Leonenko estimate of the differential entropy of rows [n, d] in nats, Euclidean; range (-inf, inf).

    Larger k has less variance (psi'(k)/n: 1.64/n at k = 1, .22/n at k = 5, besides that of the log density) and more bias.
    Raises MeasureError unless 1 <= k < n, and where rows have k copies: at distance 0 the entropy is -infinity.
    A copy is what float32 features cannot tell apart, closer than 1e-6 of the rows' lengths (`squared_distances`).

    >>> round(knn_entropy(torch.tensor([[0.0], [1.0], [3.0]])), 4)  # psi(3) - psi(1) + ln 2 + (ln 1 + ln 1 + ln 2) / 3
    2.4242
    """
    if not 1 <= k < len(x_ND):
        raise MeasureError(
            f"the entropy over the {k} nearest others wants k of at least 1 and more than k images, got {len(x_ND)}"
        )
    return _entropy(x_ND, nearest_others(x_ND, k), slice(None), k)


def _entropy(x_ND: Tensor, near: Near, rows: Rows, k: int) -> float:
    squared = radii(x_ND, near, rows, k).double()
    n, d, copies = len(squared), x_ND.shape[1], int((squared == 0).sum())
    if copies:
        raise MeasureError(
            f"the entropy is -infinity: {copies} of {n} samples have {'a copy' if k == 1 else f'{k} copies'} among the samples; "
            "measure copies as such (vendi falls with them), or drop them before measuring"
        )
    count = torch.tensor([n, k], dtype=torch.float64).digamma()
    log_ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    return float(count[0] - count[1]) + log_ball + d / 2 * float(squared.log().mean())


@measure("knn_entropy")
class KnnEntropy(PairMetric):
    """`knn_entropy` of the samples with k = 1, as Shi et al.: falls when samples move together, to -infinity at copies.

    k is 1 whatever `neighbours` is, because that is what their numbers were taken with and because the first neighbour is the one
    a memoriser brings near. Their code adds 1e-10 to each distance, so that each copy takes 23 d/n nats off, a number which says
    only what was added; here copies are an error that counts them. d is the number of features: where the images fill fewer
    dimensions the value is no entropy of theirs, but still n-for-n comparable in one space with the floor, the value of held-out
    real images. Scaling all features by a adds d ln a: pixels are in [0, 1] here and in [0, 255] there.

    >>> KnnEntropy.of(Pair(torch.zeros(4, 2), torch.eye(4)[:, :2] + torch.arange(4.0).view(4, 1))) > 0
    True
    """

    unit = "nats"
    range = (float("-inf"), float("inf"))
    better = "real"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return _entropy(pair.fake, pair.once(_near_fake), fake, 1)
