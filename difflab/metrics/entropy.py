"""Differential entropy of the samples from nearest neighbours: `knn_entropy`.

    H = psi(n) - psi(k) + log c_d + (d/n) sum_i log eps_i          Kozachenko & Leonenko 1987

eps_i is the distance from sample i to its k-th nearest other sample, c_d the volume of the unit ball in d
dimensions. Shi et al. 2025 (arXiv 2509.16499) use k = 1 and find that it shows where a loop changes from
generalising to memorising.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows
from difflab.metrics.precision_recall import Near, near_fake, nearest_others, radii


def knn_entropy(x_ND: Tensor, k: int = 1) -> float:
    """Kozachenko-Leonenko estimate of the differential entropy of rows [n, d] in nats, Euclidean; range
    (-inf, inf).

    A larger k has less variance (psi'(k)/n: 1.64/n at k = 1, .22/n at k = 5, besides that of the log
    density) and more bias. Raises MeasureError unless 1 <= k < n, and where rows have k copies: at
    distance 0 the entropy is -infinity. Rows are copies where float32 features cannot tell them apart,
    closer than 1e-6 of their lengths (`squared_distances`).

    >>> # psi(3) - psi(1) + ln 2 + (ln 1 + ln 1 + ln 2) / 3
    >>> round(knn_entropy(torch.tensor([[0.0], [1.0], [3.0]])), 4)
    2.4242
    """
    if not 1 <= k < len(x_ND):
        raise MeasureError(
            f"the entropy over the {k} nearest others needs k of at least 1 and more than k images, got "
            f"{len(x_ND)}"
        )
    return _entropy(x_ND, nearest_others(x_ND, k), slice(None), k)


def _entropy(x_ND: Tensor, near: Near, rows: Rows, k: int) -> float:
    squared = radii(x_ND, near, rows, k).double()
    n, d, copies = len(squared), x_ND.shape[1], int((squared == 0).sum())
    if copies:
        raise MeasureError(
            f"the entropy is -infinity: {copies} of {n} samples have "
            f"{'a copy' if k == 1 else f'{k} copies'} among the samples; measure copies as such (vendi "
            "falls with them), or drop them before measuring"
        )
    count = torch.tensor([n, k], dtype=torch.float64).digamma()
    log_ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    return float(count[0] - count[1]) + log_ball + d / 2 * float(squared.log().mean())


@measure("knn_entropy")
class KnnEntropy(PairMetric):
    """Differential entropy of the samples in nats, from the distance of each sample to its nearest other
    one. Falls when samples move together; copies have no value.

    `knn_entropy` with k = 1, as Shi et al. use it, whatever `neighbours` is: the first neighbour is the
    one that a memoriser brings near. Their code adds 1e-10 to each distance, so that each copy subtracts
    23 d/n nats, a number that depends on that constant alone. Here copies raise an error that counts
    them. d is the number of features. Where images fill fewer dimensions the value is not their entropy,
    but it remains comparable within one space and at equal n with the floor, the value of held-out real
    images. Scaling all features by a adds d ln a: pixels are in [0, 1] here and in [0, 255] there.

    >>> KnnEntropy.of(Pair(torch.zeros(4, 2), torch.eye(4)[:, :2] + torch.arange(4.0).view(4, 1))) > 0
    True
    """

    unit = "nats"
    range = (float("-inf"), float("inf"))
    better = "real"
    topic = "Diversity"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return _entropy(pair.fake, pair.once(near_fake), fake, 1)
