"""Kernel distances (MMD^2), on all samples at once: `kid`, and `cmmd` with its published biased form `cmmd_biased`.

kid     k(x, y) = (x.y/d + 1)^3                                Binkowski et al. 2018 (Demystifying MMD GANs)
cmmd    k(x, y) = exp(-|x - y|^2 / 2 sigma^2), |x| = |y| = 1   Jayasumana et al. 2024 (arXiv 2401.09603)
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from difflab.errors import MeasureError
from difflab.metrics.base import HELD, Pair, PairMetric, Rows, measure, squared_distances

SIGMA, SCALE = 10.0, 1000.0
"""Bandwidth and factor of CMMD, as published."""


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


def _summed(x_ND: Tensor, y_MD: Tensor, block: int = 1024) -> float:
    """Sum of k(x, y) over all pairs, `block` rows of x at a time."""
    y = y_MD.double().T / x_ND.shape[1]
    return sum(float(((part.double() @ y + 1) ** 3).sum()) for part in x_ND.split(block))


def _apart(x_ND: Tensor) -> float:
    """Sum of k(x_i, x_j) over i != j."""
    return _summed(x_ND, x_ND) - float(((x_ND.double().square().sum(1) / x_ND.shape[1] + 1) ** 3).sum())


@measure("kid")
class KernelDistance(PairMetric):
    """Unbiased MMD^2 between the two feature sets under the kernel (x.y/d + 1)^3; 0 in expectation between equal distributions.

    The U-statistic over *all* n_r and n_f rows. Binkowski et al. and torchmetrics' KernelInceptionDistance average the same
    statistic over random subsets (of 1000) of the rows: same expectation, more variance, an unseeded draw. With one subset
    of size n the two agree. Being unbiased it can be negative, and at small n it is to be trusted before `fd`.
    Memory: 4 bytes * (n_r^2 + n_f^2 + n_r n_f), kept for the resamples; above `HELD` blocks of 1024 rows instead.

    >>> KernelDistance.of(Pair(torch.zeros(3, 2), torch.ones(3, 2)))
    7.0
    """

    unit = "kernel distance"
    range = (float("-inf"), float("inf"))
    better = "lower"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        n, m = len(pair.real[real]), len(pair.fake[fake])
        if 4 * (len(pair.real) ** 2 + len(pair.fake) ** 2) > 2 * HELD:
            x, y = pair.real[real], pair.fake[fake]
            return _apart(x) / (n * (n - 1)) + _apart(y) / (m * (m - 1)) - 2 * _summed(x, y) / (n * m)
        rr, ff, rf = pair.once(_kernels)
        return _total(rr, real, real) / (n * (n - 1)) + _total(ff, fake, fake) / (m * (m - 1)) - 2 * _total(rf, real, fake) / (n * m)


def lengths(x_ND: Tensor) -> Tensor:
    """Euclidean length of each row, float64 [n]. Raises MeasureError where it is 0 or not finite: such rows have no direction."""
    length = torch.linalg.vector_norm(x_ND, dim=1, dtype=torch.float64)
    bad = (length == 0) | ~torch.isfinite(length)
    if bad.any():
        raise MeasureError(f"{int(bad.sum())} of {len(x_ND)} images have features of length 0 or infinity, hence no direction: use another extractor")
    return length


def unit_rows(x_ND: Tensor) -> Tensor:
    """Rows divided by their `lengths`, in their own dtype.

    >>> unit_rows(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    return x_ND / lengths(x_ND).to(x_ND.dtype).unsqueeze(1)


def _gaussian_less_one(unit_ND: Tensor, unit_MD: Tensor) -> Tensor:
    # On the sphere the kernel is within 2% of 1. The 1 drops out of every MMD; without it float32 resolves fifty times finer.
    return squared_distances(unit_ND, unit_MD).mul_(-0.5 / SIGMA**2).expm1_()


def _gaussians(pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """k - 1 real-real, fake-fake (both 0 on the diagonal) and real-fake."""
    real, fake = unit_rows(pair.real), unit_rows(pair.fake)
    return _gaussian_less_one(real, real).fill_diagonal_(0), _gaussian_less_one(fake, fake).fill_diagonal_(0), _gaussian_less_one(real, fake)


def cmmd_biased(x_ND: Tensor, y_MD: Tensor) -> float:
    """CMMD exactly as published: 1000 times the V-statistic, which counts each row's kernel with itself; range [0, 40).

    On CLIP ViT-L/14@336 embeddings, whose length the published code (google-research/cmmd) makes 1, it is the paper's number.
    Its bias is 1000 ((1 - a)/n + (1 - b)/m) with a and b the mean kernel between two rows of a side: it falls when a side loses
    diversity, just where a loop should show a distance.

    >>> round(cmmd_biased(torch.eye(2), -torch.eye(2)), 4)
    19.8013
    """
    return BiasedCMMD.of(Pair(x_ND, y_MD))


@measure("cmmd")
class CMMD(PairMetric):
    """Unbiased MMD^2 times 1000 between L2-normalised features under a Gaussian of sigma 10; 0 in expectation between equal distributions.

    The kernel and scale of Jayasumana et al. 2024, whose features are CLIP's ViT-L/14@336, but the U-statistic: it leaves i = j out,
    so that its expectation does not depend on n, and it can be negative. `cmmd_biased` is what is published. At sigma 10 on the unit
    sphere the kernel is all but linear: cmmd is about 10 times the squared distance between the mean directions, and sees
    little of a spread that is lost around one mean.
    Memory: 4 bytes * (n_r^2 + n_f^2 + n_r n_f), kept for the resamples.

    >>> round(CMMD.of(Pair(torch.eye(2), -torch.eye(2))), 4)
    9.8512
    """

    unit = "kernel distance x 1000"
    range = (float("-inf"), float("inf"))
    better = "lower"
    own: ClassVar[int] = 0
    """Rows that a mean over the others of a side counts besides: 1 = the row itself (V-statistic), 0 = none (U-statistic)."""

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        rr, ff, rf = pair.once(_gaussians)
        n, m = len(pair.real[real]), len(pair.fake[fake])
        within = _total(rr, real, real) / (n * (n - 1 + cls.own)) + _total(ff, fake, fake) / (m * (m - 1 + cls.own))
        return max(cls.range[0], SCALE * (within - 2 * _total(rf, real, fake) / (n * m)))


@measure("cmmd_biased")
class BiasedCMMD(CMMD):
    """`cmmd` as published: the V-statistic, for comparison with printed numbers at their n only (see the function `cmmd_biased`).

    >>> BiasedCMMD.of(Pair(torch.eye(3), torch.eye(3)))
    0.0
    """

    range = (0.0, float("inf"))
    own = 1
