"""Effective number of different samples: the Vendi Score `vendi`, and its generalisation to any order.

    VS_q = exp( log(sum_i l_i^q) / (1 - q) ),    l = eigenvalues of K/n,  K_ij = cosine of samples i and j

Friedman & Dieng 2022 (arXiv 2210.02410, q = 1: the exponential of the Shannon entropy of l); Pasarkar &
Dieng 2023 (2310.12952, any q).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.influence import Influence
from difflab.metrics.kernel import lengths
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows
from difflab.metrics.scatter import scatter


def vendi_score(x_ND: Tensor, q: float = 1.0) -> float:
    """Vendi Score of order q of rows [n, d] under the cosine kernel, in float64; range [1, min(n, d)].

    Small q weight rare kinds of rows like common ones; q = 0 is the rank. Large q see only the common
    ones; q = inf is one over the largest share. Costs min(n, d)^3: X'X and XX' have the same eigenvalues,
    and the smaller one is used. Raises MeasureError for q < 0, without rows, and for rows that are all
    zero, which have no cosine.

    >>> round(vendi_score(torch.eye(4)), 6), round(vendi_score(torch.eye(4)[[0, 0, 1]], q=math.inf), 6)
    (4.0, 1.5)
    """
    if not q >= 0:
        raise MeasureError(f"a Vendi Score needs an order q of 0 or more, up to math.inf; got {q}")
    if len(x_ND) == 0:
        raise MeasureError("a Vendi Score needs at least 1 image, got 0")
    return _hill(_spectrum(x_ND), q)


def cosines(x_ND: Tensor, block: int = 4096) -> Tensor:
    """Cosines between all rows, float64 [n, n], summed over `block` columns at a time. Raises MeasureError
    for rows of zeros.

    >>> cosines(torch.tensor([[2.0, 0.0], [3.0, 3.0]]))[0]
    tensor([1.0000, 0.7071], dtype=torch.float64)
    """
    return _cosines(x_ND, lengths(x_ND), block)


def _cosines(x_ND: Tensor, length: Tensor, block: int = 4096) -> Tensor:
    gram = torch.zeros(len(x_ND), len(x_ND), dtype=torch.float64, device=x_ND.device)
    for columns in x_ND.split(block, dim=1):
        gram.addmm_(columns.double(), columns.double().T)
    return gram.div_(length.unsqueeze(1)).div_(length)


def _spectrum(x_ND: Tensor, block: int = 1024) -> Tensor:
    """Eigenvalues of K/n, float64 [min(n, d)], without the remaining zeros. They sum to 1."""
    n, d = x_ND.shape
    if n <= d:
        return torch.linalg.eigvalsh(cosines(x_ND) / n)
    units = (
        rows.double() / length.unsqueeze(1)
        for rows, length in zip(x_ND.split(block), lengths(x_ND).split(block), strict=True)
    )
    return torch.linalg.eigvalsh(scatter(units) / n)


def _hill(shares: Tensor, q: float) -> float:
    """Hill number of order q: the number of equal shares with the same diversity as these."""
    # What rounding leaves of zeros would count as whole kinds at q = 0.
    shares = shares[shares > shares.max() * len(shares) * torch.finfo(torch.float64).eps]
    if q == 1:
        return float(torch.special.entr(shares).sum().exp())
    if math.isinf(q):
        return float(1 / shares.max())
    return float(((q * shares.log()).logsumexp(0) / (1 - q)).exp())


def _cosines_fake(pair: Pair) -> Tensor:
    """Cosines between the samples. Those with a sample that has no direction are 0, and are not read."""
    length = torch.linalg.vector_norm(pair.fake, dim=1, dtype=torch.float64)
    return _cosines(pair.fake, length.where(pair.directed["fake"], 1))


@measure("vendi")
class Vendi(PairMetric):
    """Vendi Score of the samples, q = 1: the number of mutually orthogonal images with the same diversity. 1
    = all alike.

    The real images do not enter. Compare with the floor, the score of held-out real images at the same n
    (the score grows with n). Samples can be above it by noise: diversity is not quality. Features with a
    large common mean, as those of most networks and all pixels, have cosines near 1 and scores near 1;
    only changes within one feature space are meaningful. Samples whose features are all 0 have
    no cosine and are left out. Memory: 8 bytes * min(n_f, d)^2.

    >>> round(Vendi.of(Pair(torch.eye(4), torch.eye(4)[[0, 0, 1, 1]])), 6)
    2.0
    """

    unit = "effective images"
    directions = ("fake",)
    range = (1.0, float("inf"))
    better = "real"
    topic = "Diversity"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        n, d = pair.fake.shape
        if n > d:
            shares = _spectrum(pair.fake[fake])
        else:
            kernel = pair.once(_cosines_fake)[fake][:, fake]
            shares = torch.linalg.eigvalsh(kernel / len(kernel))
        return max(1.0, _hill(shares, 1.0))  # equal samples are 1 but for rounding

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        n, d = pair.fake.shape
        if n > d:
            rows = pair.fake[fake]
            units = rows.double() / lengths(rows).unsqueeze(1)
            shares, vectors = torch.linalg.eigh(units.T @ units / len(units))
            weights = (units @ vectors).square()
        else:
            kernel = pair.once(_cosines_fake)[fake][:, fake]
            shares, vectors = torch.linalg.eigh(kernel / len(kernel))
            weights = vectors.square() * shares.clamp(min=0) * len(kernel)
        # With S = sum of u u' / n, the derivative of -tr S log S in the direction of the unit row u is
        # -u' (log S) u, up to a constant.
        derivative = -(weights @ shares.clamp(min=torch.finfo(torch.float64).tiny).log())
        score = _hill(shares.clamp(min=0), 1.0)
        return Influence.of(derivative.new_zeros(len(pair.real[real])), score * derivative)
