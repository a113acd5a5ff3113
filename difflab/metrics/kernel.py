"""Kernel distances (MMD^2) on all samples at once: `kid`, and `cmmd` with its published biased form
`cmmd_biased`.

    kid     k(x, y) = (x.y/d + 1)^3                                Binkowski et al. 2018 (Demystifying MMD
        GANs)
    cmmd    k(x, y) = exp(-|x - y|^2 / 2 sigma^2), |x| = |y| = 1   Jayasumana et al. 2024 (arXiv
        2401.09603)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.metrics.distances import squared_distances
from difflab.metrics.influence import Influence
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows

SIGMA, SCALE = 10.0, 1000.0
"""Bandwidth and factor of CMMD, as published."""


def _shares(pair: Pair) -> tuple[float, dict[str, Tensor]]:
    """A, and for each row of either side ('r', 'f') a float64 a, with x.y/d + 1 = A + a_x + a_y - |x - y|^2
    / 2d.

    Rows are taken relative to the mean c of the real ones. A = 1 + |c|^2/d is then common to all kernels.
    """
    c, d = pair.real.mean(0, dtype=torch.float64), pair.real.shape[1]
    shares = {}
    for side, x_ND in (("r", pair.real), ("f", pair.fake)):
        parts = (part.double() - c for part in x_ND.split(256))
        shares[side] = torch.cat([(p @ c + p.square().sum(1) / 2) / d for p in parts])
    return 1 + float(c @ c) / d, shares


def _kernel_blocks(pair: Pair, sides: str, rows: Rows, columns: Rows) -> Iterator[Tensor]:
    """k(x, y) - A^3 of the pairs of `rows` and `columns`, in blocks of rows. Within one side ('rr', 'ff') a
    row is not paired with itself: 0.

    A^3 cancels in the MMD. Without it float32 distances resolve the rest more finely.
    """
    common, shares = pair.once(_shares)
    x, y = shares[sides[0]][rows].unsqueeze(1), shares[sides[1]][columns]
    start = 0
    for block in pair.distances(rows, columns, sides):
        for apart in block.split(64):  # parts of this size stay in the processor's cache
            v = (x[start : start + len(apart)] + y).sub_(apart, alpha=0.5 / pair.real.shape[1])
            if sides != "rf":
                v.diagonal(start).zero_()
            start += len(v)
            yield (v + 3 * common).mul_(v).add_(3 * common**2).mul_(v)


def _summed(pair: Pair, sides: str, rows: Rows, columns: Rows) -> float:
    """Sum of k(x, y) - A^3 over the pairs of `rows` and `columns`, see `_kernel_blocks`."""
    return sum(float(block.sum()) for block in _kernel_blocks(pair, sides, rows, columns))


@dataclass(frozen=True)
class _Sums:
    """Sums over a matrix of kernels [n, m], whose diagonal is 0 within one side.

    Attributes:
        rows, columns: float64 [n] and [m].
        squares: sum of the squares of all entries.
    """

    rows: Tensor
    columns: Tensor
    squares: float

    @classmethod
    def of(cls, blocks: Iterable[Tensor]) -> _Sums:
        rows, columns, squares = [], torch.zeros(()), 0.0
        for block in blocks:
            rows.append(block.sum(1, dtype=torch.float64))
            columns = columns + block.sum(0, dtype=torch.float64)
            squares += float(block.square().sum(dtype=torch.float64))
        return cls(torch.cat(rows), columns, squares)

    @property
    def centred_squares(self) -> float:
        """Sum of the squares after the means of rows and columns are subtracted; 0 or more."""
        n, m = len(self.rows), len(self.columns)
        rows, columns = float(self.rows.square().sum()), float(self.columns.square().sum())
        return max(0.0, self.squares - rows / m - columns / n + float(self.rows.sum()) ** 2 / (n * m))


def mmd_influence(rr: _Sums, ff: _Sums, rf: _Sums, scale: float = 1.0) -> Influence:
    """Influences on `scale` times an MMD^2, from its kernels within either side and between the two.

    The first-order terms are the witness function at each image (Gretton et al. 2012, JMLR 13, sec. 2.3). The
    variance of the second-order term is that of a degenerate U-statistic (Serfling 1980, sec. 5.2).
    """
    n, m = len(rr.rows), len(ff.rows)
    witness_real = 2 * (rr.rows / (n - 1) - rf.rows / m)
    witness_fake = 2 * (ff.rows / (m - 1) - rf.columns / n)
    quadratic = 2 * rr.centred_squares / (n * (n - 1)) ** 2 + 2 * ff.centred_squares / (m * (m - 1)) ** 2
    quadratic += 4 * rf.centred_squares / (n * m) ** 2
    return Influence.of(scale * witness_real, scale * witness_fake, scale**2 * quadratic)


@measure("kid")
class KernelDistance(PairMetric):
    """Unbiased MMD^2 between the two feature sets under the kernel (x.y/d + 1)^3: 0 in expectation between
    equal distributions.

    The U-statistic over *all* n_r and n_f rows. Binkowski et al. and torchmetrics'
    KernelInceptionDistance average the same statistic over random subsets of 1000 rows: the same
    expectation, with more variance and an unseeded draw. With one subset of size n the two agree. Since
    it is unbiased it can be negative. At small n prefer it to `fd`. All kernels are computed from the
    distances that the nearest-neighbour measures use too, so it needs no product and no memory of its
    own.

    >>> KernelDistance.of(Pair(torch.zeros(3, 2), torch.ones(3, 2)))
    7.0
    """

    unit = "kernel distance"
    range = (float("-inf"), float("inf"))
    better = "lower"
    topic = "Fidelity"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        n, m = len(pair.real[real]), len(pair.fake[fake])
        within_real = _summed(pair, "rr", real, real) / (n * (n - 1))
        within_fake = _summed(pair, "ff", fake, fake) / (m * (m - 1))
        within = within_real + within_fake
        return within - 2 * _summed(pair, "rf", real, fake) / (n * m)

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        rr, ff, rf = (
            _Sums.of(_kernel_blocks(pair, sides, rows, columns))
            for sides, rows, columns in (("rr", real, real), ("ff", fake, fake), ("rf", real, fake))
        )
        return mmd_influence(rr, ff, rf)


def lengths(x_ND: Tensor) -> Tensor:
    """Euclidean length of each row, float64 [n]. Raises MeasureError for rows of length 0 or infinity, which
    have no direction.
    """
    length = torch.linalg.vector_norm(x_ND, dim=1, dtype=torch.float64)
    bad = (length == 0) | ~torch.isfinite(length)
    if bad.any():
        raise MeasureError(
            f"{int(bad.sum())} of {len(x_ND)} images have features of length 0 or infinity, hence no "
            "direction: use another extractor"
        )
    return length


def unit_rows(x_ND: Tensor) -> Tensor:
    """Rows divided by their lengths, in their own dtype. Rows of length 0 stay 0.

    Measures that read unit rows leave rows of length 0 out, see `PairMetric.directions`.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    length = torch.linalg.vector_norm(x_ND, dim=1, dtype=torch.float64)
    return x_ND / length.where(length > 0, 1).to(x_ND.dtype).unsqueeze(1)


def _gaussian_less_one(unit_ND: Tensor, unit_MD: Tensor) -> Tensor:
    # On the sphere the kernel is within 2% of 1. The 1 drops out of every MMD; without it float32 resolves
    # fifty times finer.
    return squared_distances(unit_ND, unit_MD).mul_(-0.5 / SIGMA**2).expm1_()


def _gaussians(pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """k - 1 between real images, between samples (both 0 on the diagonal), and between the two."""
    real, fake = unit_rows(pair.real), unit_rows(pair.fake)
    return (
        _gaussian_less_one(real, real).fill_diagonal_(0),
        _gaussian_less_one(fake, fake).fill_diagonal_(0),
        _gaussian_less_one(real, fake),
    )


def cmmd_biased(x_ND: Tensor, y_MD: Tensor) -> float:
    """CMMD exactly as published: 1000 times the V-statistic, which pairs each row with itself too.

    The range is [0, 40).

    On CLIP ViT-L/14@336 embeddings, which the published code (google-research/cmmd) scales to length 1,
    it is the number of the paper. Its bias is 1000 ((1 - a)/n + (1 - b)/m), where a and b are the mean
    kernels between two rows of a side. The bias falls when a side loses diversity, just where a loop
    should show a distance. Raises MeasureError for rows of zeros, which have no direction.

    >>> round(cmmd_biased(torch.eye(2), -torch.eye(2)), 4)
    19.8013
    """
    for side in (x_ND, y_MD):
        lengths(side)  # a function has no place to say how many rows it left out
    return BiasedCMMD.of(Pair(x_ND, y_MD))


def _total(matrix: Tensor, rows: Rows, columns: Rows) -> float:
    return float(matrix[rows][:, columns].sum(dtype=torch.float64))


@measure("cmmd")
class CMMD(PairMetric):
    """Unbiased MMD^2 times 1000 between L2-normalised features under a Gaussian kernel of sigma 10: 0 in
    expectation between equal distributions.

    Kernel and scale are those of Jayasumana et al. 2024, whose features are CLIP's ViT-L/14@336. This is
    the U-statistic: it leaves i = j out, so that its expectation does not depend on n, and it can be
    negative. The published form is `cmmd_biased`. At sigma 10 on the unit sphere the kernel is almost
    linear: cmmd is about 10 times the squared distance between the mean directions, and reacts little to
    a loss of spread around one mean. Rows of zeros have no direction and are left out. Memory: 4 bytes *
    (n_r^2 + n_f^2 + n_r n_f), kept for the resamples.

    >>> round(CMMD.of(Pair(torch.eye(2), -torch.eye(2))), 4)
    9.8512
    """

    unit = "kernel distance x 1000"
    directions = ("real", "fake")
    range = (float("-inf"), float("inf"))
    better = "lower"
    topic = "Fidelity"
    self_pairs: ClassVar[int] = 0
    """Rows that a mean over the others of a side counts besides: 1 = the row itself (V-statistic), 0 = none
    (U-statistic).
    """

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        rr, ff, rf = pair.once(_gaussians)
        n, m = len(pair.real[real]), len(pair.fake[fake])
        within_real = _total(rr, real, real) / (n * (n - 1 + cls.self_pairs))
        within_fake = _total(ff, fake, fake) / (m * (m - 1 + cls.self_pairs))
        within = within_real + within_fake
        return max(cls.range[0], SCALE * (within - 2 * _total(rf, real, fake) / (n * m)))

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        rr, ff, rf = pair.once(_gaussians)
        return mmd_influence(
            _Sums.of([rr[real][:, real]]), _Sums.of([ff[fake][:, fake]]), _Sums.of([rf[real][:, fake]]), SCALE
        )


@measure("cmmd_biased")
class BiasedCMMD(CMMD):
    """`cmmd` as published: the V-statistic. Use it only for comparison with printed numbers at the same n
    (see the function `cmmd_biased`).

    >>> BiasedCMMD.of(Pair(torch.eye(3), torch.eye(3)))
    0.0
    """

    range = (0.0, float("inf"))
    self_pairs = 1
