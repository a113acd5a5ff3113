"""Kernel distance `kid`: the unbiased MMD^2 of Binkowski et al. 2018 (Demystifying MMD GANs), on all samples at once."""

from __future__ import annotations

import torch
from torch import Tensor

from difflab.metrics.base import Pair, PairMetric, Rows, measure


def polynomial_kernel(x_ND: Tensor, y_MD: Tensor, block: int = 1024) -> Tensor:
    """k(x, y) = (x.y / d + 1)^3, float32 [N, M], taken in float64 over `block` rows of x at a time.

    >>> polynomial_kernel(torch.ones(1, 4), torch.ones(1, 4))
    tensor([[8.]])
    """
    out = torch.empty(len(x_ND), len(y_MD), dtype=torch.float32, device=x_ND.device)
    y = y_MD.double().T / x_ND.shape[1]
    for start in range(0, len(x_ND), block):
        out[start : start + block] = (x_ND[start : start + block].double() @ y + 1) ** 3
    return out


def _kernels(pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel matrices real-real, fake-fake (both with a zero diagonal: the U-statistic leaves i = j out) and real-fake."""
    rr, ff = polynomial_kernel(pair.real, pair.real), polynomial_kernel(pair.fake, pair.fake)
    return rr.fill_diagonal_(0), ff.fill_diagonal_(0), polynomial_kernel(pair.real, pair.fake)


def _total(matrix: Tensor, rows: Rows, columns: Rows) -> float:
    return float(matrix[rows][:, columns].sum(dtype=torch.float64))


@measure("kid")
class KernelDistance(PairMetric):
    """Unbiased MMD^2 between the two feature sets under the kernel (x.y/d + 1)^3; 0 in expectation between equal distributions.

    The U-statistic over *all* n_r and n_f rows. Binkowski et al. and torchmetrics' KernelInceptionDistance average the same
    statistic over random subsets (of 1000) of the rows: same expectation, more variance, an unseeded draw. With one subset
    of size n the two agree. Being unbiased it can be negative, and at small n it is to be trusted before `fd`.
    Memory: 4 bytes * (n_r^2 + n_f^2 + n_r n_f), kept for the resamples.

    >>> KernelDistance.of(Pair(torch.zeros(3, 2), torch.ones(3, 2)))
    7.0
    """

    unit = "kernel distance"
    range = (float("-inf"), float("inf"))
    better = "lower"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        rr, ff, rf = pair.once(_kernels)
        n, m = len(pair.real[real]), len(pair.fake[fake])
        return _total(rr, real, real) / (n * (n - 1)) + _total(ff, fake, fake) / (m * (m - 1)) - 2 * _total(rf, real, fake) / (n * m)
