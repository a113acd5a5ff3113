"""Frechet distance between the normal fits of two feature sets: `fd`, its limit `fd_infinity`, and
torchmetrics' FID.

    FD = |mu_1 - mu_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)        Dowson & Landau 1982; Heusel et
        al. 2017 (FID)

With any factors S_1 = A'A and S_2 = B'B, the eigenvalues of S_1 S_2 are the squared singular values of
AB', so the last trace is the nuclear norm of AB'. That form is real, non-negative, symmetric and valid
for any rank. The usual square root of the non-symmetric product S_1 S_2 becomes complex or NaN for n < d,
and costs more.

The factors are n - 1 `contrasts` of the rows where n - 1 <= d, else Cholesky's of the covariance. The
singular values are computed as roots of the eigenvalues of AB'BA', at a fifth of the cost of an SVD. Both
steps square their input and can lose the smallest singular values to rounding. Where that could change
the nuclear norm by a relative 1e-7, the exact way is taken (QR, SVD). On features of EfficientNet and on
falling spectra the two ways differed by 1e-10 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.rows import RowKind
from difflab.metrics.deferred import deferred
from difflab.metrics.frechet_influence import frechet_influence
from difflab.metrics.influence import Influence
from difflab.metrics.metric import PairMetric, measure
from difflab.metrics.pair import Pair, Rows
from difflab.metrics.scatter import scatter

if TYPE_CHECKING:
    from torchmetrics.image.fid import FrechetInceptionDistance as _TorchmetricsFID
else:
    _TorchmetricsFID = deferred("torchmetrics.image.fid", "FrechetInceptionDistance")

FID = RowKind(
    "fid",
    unit="squared feature distance",
    better="lower",
    about="Frechet distance on the features of Inception-v3 (Heusel et al. 1706.08500). It is called FID on "
    "no other features.",
    topic="Fidelity",
)
ROWS = (FID,)


def frechet_distance(x_ND: Tensor, y_MD: Tensor) -> float:
    """Frechet distance of two feature sets [n, d] and [m, d] with unbiased covariances, in float64; range
    [0, inf).

    The error is at most 1e-7 of tr S_1 + tr S_2, and usually 1e-10. Where n <= d on both sides, no d x d
    matrix is made. Two samples of *one* distribution have a positive expectation, about (1/n + 1/m)(d +
    d(d+1)/4) for N(0, I_d): compare values at one n only, and with the floor. Raises MeasureError for
    fewer than 2 rows on a side and for input that is not finite.

    >>> round(frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]])), 12)
    9.0
    """
    if len(x_ND) < 2 or len(y_MD) < 2:
        raise MeasureError(
            f"a Frechet distance needs at least 2 images on each side, got {len(x_ND)} and {len(y_MD)}"
        )
    mu_1, mu_2 = (side.mean(0, dtype=torch.float64) for side in (x_ND, y_MD))
    if not (torch.isfinite(mu_1).all() and torch.isfinite(mu_2).all()):
        raise MeasureError("a Frechet distance needs finite features; some are NaN or infinite")
    a, b = _factor_of_rows(x_ND, mu_1), _factor_of_rows(y_MD, mu_2)
    triangular = min(len(x_ND), len(y_MD)) - 1 > x_ND.shape[1]
    cross = _product_of_triangles(a, b) if triangular else a @ b.T
    return _distance(mu_1 - mu_2, a.square().sum() + b.square().sum(), cross)


def frechet_from_moments(mu1: Tensor, cov1: Tensor, mu2: Tensor, cov2: Tensor) -> float:
    """Frechet distance of two normal distributions with means [d] and covariances [d, d], which may be
    singular.

    Raises MeasureError when a covariance is not finite, or has an eigenvalue below 0 by more than
    rounding.

    >>> one, zero = torch.eye(2), torch.zeros(2)
    >>> round(frechet_from_moments(zero, one, zero + 1, 4 * one), 12)
    4.0
    """
    a, b = _factor(cov1.double()), _factor(cov2.double())
    return _distance(mu1.double() - mu2.double(), a.square().sum() + b.square().sum(), a @ b.T)


def contrasts(x_ND: Tensor) -> Tensor:
    """n - 1 rows float64 [n - 1, d] with the same scatter as the n rows about their mean.

    A Householder reflection moves all of the mean into the first row, which is left out.

    >>> contrasts(torch.tensor([[0.0], [2.0]])).abs()
    tensor([[1.4142]], dtype=torch.float64)
    """
    x = x_ND - x_ND.mean(0, dtype=torch.float64)
    return x[1:] + x[0] / (len(x) ** 0.5 - 1)


def _factor_of_rows(x_ND: Tensor, mu_D: Tensor, block: int = 1024) -> Tensor:
    """A float64 [min(n - 1, d), d] with A'A = the unbiased covariance."""
    n, d = x_ND.shape
    if n - 1 <= d:
        return contrasts(x_ND) / (n - 1) ** 0.5
    lower, failed = torch.linalg.cholesky_ex(
        scatter(part.double() - mu_D for part in x_ND.split(block)) / (n - 1)
    )
    pivots = lower.diagonal().square()
    if not failed and pivots.min() > 1e-10 * pivots.max():
        return lower.T
    return torch.linalg.qr((x_ND - mu_D) / (n - 1) ** 0.5, mode="r").R


def _product_of_triangles(a_DD: Tensor, b_DD: Tensor, step: int = 256) -> Tensor:
    """AB' of two upper triangular matrices, without most of the products that are 0."""
    product = torch.zeros_like(a_DD)
    for start in range(0, len(product), step):
        stop = start + step
        product[:stop, :stop].addmm_(a_DD[:stop, start:stop], b_DD[:stop, start:stop].T)
    return product


def _factor(cov_DD: Tensor) -> Tensor:
    """A with A'A = cov: Cholesky where it exists, else from the spectrum, with eigenvalues below 0 by
    rounding set to 0.
    """
    if not torch.isfinite(cov_DD).all():
        raise MeasureError("a Frechet distance needs a finite covariance; some entries are NaN or infinite")
    lower, failed = torch.linalg.cholesky_ex(cov_DD)
    if not failed:
        return lower.T
    values, vectors = torch.linalg.eigh((cov_DD + cov_DD.T) / 2)
    if values.min() < -1e-6 * values.abs().max():
        raise MeasureError(
            f"not a covariance: smallest eigenvalue {values.min():.3g}, largest {values.max():.3g}"
        )
    return values.clamp(min=0).sqrt().unsqueeze(1) * vectors.T


def _nuclear(c_NM: Tensor) -> Tensor:
    """Sum of the singular values."""
    tall = c_NM if c_NM.shape[0] >= c_NM.shape[1] else c_NM.T
    squares = torch.linalg.eigvalsh(scatter([tall]))
    roots = squares.clamp(min=0).sqrt()
    # The rounding error of each square. It moves a root r by at most noise / r, and by at most sqrt(noise).
    noise = 4 * torch.finfo(squares.dtype).eps * squares[-1]
    if (noise / (roots + noise.sqrt())).sum() <= 1e-7 * roots.sum():
        return roots.sum()
    return torch.linalg.svdvals(c_NM).sum()


def _distance(gap_D: Tensor, traces: Tensor, cross_NM: Tensor) -> float:
    """The distance from mu_1 - mu_2, tr S_1 + tr S_2 and AB'."""
    # Rounding can leave -1e-15 where the two sides are the same; the distance itself is never negative.
    return float((gap_D.square().sum() + traces - 2 * _nuclear(cross_NM)).clamp(min=0))


def _products(pair: Pair) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What all halves of a pair with few rows share: inner products [n_r, n_f], squared norms of both sides,
    and the real mean.

    All float64. Products and norms are of the rows minus the mean of the real images.
    """
    shift = pair.real.mean(0, dtype=torch.float64)
    real, fake = pair.real - shift, pair.fake - shift
    return real @ fake.T, real.square().sum(1), fake.square().sum(1), shift


@measure("fd")
class FrechetDistance(PairMetric):
    """Frechet distance between normal fits of the real and the sample features. It depends on the extractor
    and is called FID only on Inception features.

    See `frechet_distance` for the formula and the bias.

    >>> FrechetDistance.of(Pair(torch.eye(4), torch.eye(4) + 1)) > 0
    True
    """

    unit = "squared feature distance"
    range = (0.0, float("inf"))
    better = "lower"
    topic = "Fidelity"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        if max(len(pair.real), len(pair.fake)) > pair.real.shape[1]:
            return frechet_distance(pair.real[real], pair.fake[fake])
        # Few rows: all that their halves need of their product is some of its rows and columns.
        products, norms_real, norms_fake, shift = pair.once(_products)
        n, m = len(norms_real[real]), len(norms_fake[fake])
        mu_1, mu_2 = (
            side.mean(0, dtype=torch.float64) - shift for side in (pair.real[real], pair.fake[fake])
        )
        scatter_1, scatter_2 = (
            norms_real[real].sum() - n * mu_1.square().sum(),
            norms_fake[fake].sum() - m * mu_2.square().sum(),
        )
        cross = contrasts(contrasts(products[real][:, fake]).T) / ((n - 1) * (m - 1)) ** 0.5
        return _distance(mu_1 - mu_2, scatter_1 / (n - 1) + scatter_2 / (m - 1), cross)

    @classmethod
    def influence(cls, pair: Pair, real: Rows, fake: Rows) -> Influence:
        products = None
        if max(len(pair.real), len(pair.fake)) <= pair.real.shape[1]:
            products = pair.once(_products)[0][real][:, fake]
        return frechet_influence(pair.real[real], pair.fake[fake], products)


def fd_infinity(x_ND: Tensor, y_MD: Tensor, parts: Sequence[int] = (1, 2), seed: int = 0) -> float:
    """Frechet distance extrapolated to infinitely many images (Chong & Forsyth 2020, arXiv 1911.07023,
    Effectively unbiased FID).

    A line is fitted to the distances at n, n/2, ... against 1/n; the result is its intercept. It can be
    negative.

    For each number in `parts` both sides are split at random into that many disjoint parts, whose
    distances are averaged, so that every row counts at every size. The splits depend on `seed` and the
    numbers of rows alone. The paper draws one subset of the samples per size, 15 sizes, and keeps the
    real side whole, because it has 50,000 real images. Here both sides are small, so the bias of both is
    removed. Two sizes, 2 FD(n) - FD(n/2), gave the best line: between two samples of N(0, I_16) at n =
    128 (FD 1.33 +-.16) its standard deviation is .21, that of fifteen single subsets from n/4 on .29.

    The distance is linear in 1/n, hence the result unbiased, while every part has at least 2 d rows. At d
    rows the correction is 1 to 5% too large; with fewer rows some bias remains. Raises MeasureError
    unless `parts` has two different sizes that leave at least 2 rows each.

    >>> fd_infinity(torch.tensor([[0.0], [2.0]] * 4), torch.tensor([[3.0], [5.0]] * 4)) < 9.1
    True
    """
    few = min(len(x_ND), len(y_MD))
    if len(set(parts)) < 2 or min(parts) < 1 or few < 2 * max(parts):
        raise MeasureError(
            "a line to infinitely many images needs two sizes or more of at least 2 images each, got parts "
            f"{tuple(parts)} of {few} images"
        )
    draw = np.random.default_rng(seed)
    means = []
    for count in parts:
        x, y = (
            torch.from_numpy(draw.permutation(len(side))).to(side.device).tensor_split(count)
            for side in (x_ND, y_MD)
        )
        distances = [frechet_distance(x_ND[a], y_MD[b]) for a, b in zip(x, y, strict=True)]
        means.append(np.mean(distances))
    return float(np.polynomial.Polynomial.fit(parts, means, 1)(0.0))


@measure("fd_infinity")
class FrechetDistanceInfinity(PairMetric):
    """`fd` with its 1/n bias removed, 2 FD(n) - FD(n/2): 0 in expectation between equal distributions.

    See `fd_infinity`. It needs 2 d images on either side, and 4 d with an interval, because the distance
    of halves with fewer than d rows is not on the line: below 4096 images use `kid` with the 2048
    features of Inception. Its standard deviation is 1.3 to 1.9 times that of `fd` between equal
    distributions, and 1.0 to 1.1 times that between different ones (normal ones, n = 2 d to 16 d).
    Negative values are noise around 0. Samples that are copies of the real images share their noise, for
    which no line can correct: the value is then below 0. Costs three times as much as `fd`.

    >>> x = torch.arange(8.0).view(8, 1)
    >>> round(FrechetDistanceInfinity.of(Pair(x, x + 100)), -2)
    10000.0
    """

    unit = "squared feature distance"
    range = (float("-inf"), float("inf"))
    better = "lower"
    topic = "Fidelity"

    @classmethod
    def least(cls, pair: Pair) -> int:
        """Twice as many images as features."""
        return max(4, 2 * pair.real.shape[1])

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return fd_infinity(pair.real[real], pair.fake[fake])


class FrechetInceptionDistance(_TorchmetricsFID):
    """torchmetrics' FID with a symmetric matrix root: same images, same value, never NaN.

    The first instance imports torchmetrics, see `deferred`. Constructor, states and `update` are inherited,
    so the states of one can be loaded into the other.

    >>> from torch.nn import AdaptiveAvgPool2d, Flatten, Sequential
    >>> network = Sequential(AdaptiveAvgPool2d(1), Flatten())
    >>> fid = FrechetInceptionDistance(network, normalize=True, input_img_size=(3, 8, 8))
    >>> for real in (True, False): fid.update(torch.linspace(0, 1, 768).view(4, 3, 8, 8), real=real)
    >>> bool(fid.compute() < 1e-6)
    True
    """

    def compute(self) -> Tensor:
        """FID over all images so far, in the dtype of the features. Raises MeasureError for fewer than 2
        images on a side.
        """
        if self.real_features_num_samples < 2 or self.fake_features_num_samples < 2:
            raise MeasureError(
                f"FID needs at least 2 images on each side, got {self.real_features_num_samples} and "
                f"{self.fake_features_num_samples}"
            )
        moments = []
        for side in ("real", "fake"):
            n = getattr(self, f"{side}_features_num_samples")
            mu = getattr(self, f"{side}_features_sum") / n
            moments += [mu, (getattr(self, f"{side}_features_cov_sum") - n * torch.outer(mu, mu)) / (n - 1)]
        return torch.tensor(frechet_from_moments(*moments), dtype=self.orig_dtype, device=self.device)
