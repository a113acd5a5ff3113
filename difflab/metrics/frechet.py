"""Frechet distance between the normal fits of two feature sets: `fd`, and FID as torchmetrics defines it.

    FD = |mu_1 - mu_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)          Dowson & Landau 1982; Heusel et al. 2017 (FID)

With any factors S_1 = A'A and S_2 = B'B the eigenvalues of S_1 S_2 are the squared singular values of AB', so the last
trace is the nuclear norm of AB'. That form is real, non-negative, symmetric and indifferent to rank, where the usual
square root of the non-symmetric product S_1 S_2 turns complex or NaN (n < d) and costs more.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance as _TorchmetricsFID

from difflab.errors import MeasureError
from difflab.metrics.base import Pair, PairMetric, Rows, measure


def frechet_distance(x_ND: Tensor, y_MD: Tensor) -> float:
    """Frechet distance of two feature sets [n, d] and [m, d] with unbiased covariances, in float64; range [0, inf).

    Exact. Each side enters by its cheaper factor: the centred rows when n <= d (then no d x d matrix is ever made), the
    triangular factor of their QR decomposition when n > d. Two samples of *one* distribution have a positive expectation
    of about (1/n + 1/m)(d + d(d+1)/4) for N(0, I_d): compare values at one n only, and with the floor.
    Raises MeasureError under 2 rows on a side or on non-finite input.

    >>> round(frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]])), 12)
    9.0
    """
    if len(x_ND) < 2 or len(y_MD) < 2:
        raise MeasureError(f"a Frechet distance needs at least 2 images on each side, got {len(x_ND)} and {len(y_MD)}")
    (mu_1, a), (mu_2, b) = _moments(x_ND), _moments(y_MD)
    return _from_factors(mu_1, a, mu_2, b)


def frechet_from_moments(mu1: Tensor, cov1: Tensor, mu2: Tensor, cov2: Tensor) -> float:
    """Frechet distance of two normal distributions given by means [d] and covariances [d, d]; singular ones are fine.

    Raises MeasureError when a covariance is not finite or has a truly negative eigenvalue (beyond rounding).

    >>> one, zero = torch.eye(2), torch.zeros(2)
    >>> round(frechet_from_moments(zero, one, zero + 1, 4 * one), 12)
    4.0
    """
    return _from_factors(mu1.double(), _factor(cov1.double()), mu2.double(), _factor(cov2.double()))


def _moments(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d] and a factor A [min(n, d), d] with A'A = the unbiased covariance."""
    x = x_ND.double()
    if not torch.isfinite(x).all():
        raise MeasureError("a Frechet distance needs finite features; some are NaN or infinite")
    mu = x.mean(0)
    a = (x - mu) / (len(x) - 1) ** 0.5
    return mu, a if len(a) <= a.shape[1] else torch.linalg.qr(a, mode="r").R


def _factor(cov_DD: Tensor) -> Tensor:
    """A with A'A = cov: Cholesky where it exists, else from the spectrum, whose rounding below 0 is cut."""
    if not torch.isfinite(cov_DD).all():
        raise MeasureError("a Frechet distance needs a finite covariance; some entries are NaN or infinite")
    lower, failed = torch.linalg.cholesky_ex(cov_DD)
    if not failed:
        return lower.T
    values, vectors = torch.linalg.eigh((cov_DD + cov_DD.T) / 2)
    if values.min() < -1e-6 * values.abs().max():
        raise MeasureError(f"not a covariance: smallest eigenvalue {values.min():.3g}, largest {values.max():.3g}")
    return values.clamp(min=0).sqrt().unsqueeze(1) * vectors.T


def _from_factors(mu_1: Tensor, a: Tensor, mu_2: Tensor, b: Tensor) -> float:
    cross = torch.linalg.svdvals(a @ b.T).sum()
    # Rounding can leave -1e-15 where the two sides are the same; the distance itself is never negative.
    return float(((mu_1 - mu_2).square().sum() + a.square().sum() + b.square().sum() - 2 * cross).clamp(min=0))


@measure("fd")
class FrechetDistance(PairMetric):
    """`frechet_distance` on whatever features the pair holds; say which ("FD pixels"), and never call it FID.

    >>> FrechetDistance.of(Pair(torch.eye(4), torch.eye(4) + 1)) > 0
    True
    """

    unit = "squared feature distance"
    range = (0.0, float("inf"))
    better = "lower"

    @classmethod
    def evaluate(cls, pair: Pair, real: Rows, fake: Rows) -> float:
        return frechet_distance(pair.real[real], pair.fake[fake])


class FrechetInceptionDistance(_TorchmetricsFID):
    """torchmetrics' FID with the symmetric root: same images, same value, never NaN.

    Constructor, states and `update` are the parent's, so the states of one load into the other.

    >>> from torch.nn import AdaptiveAvgPool2d, Flatten, Sequential
    >>> fid = FrechetInceptionDistance(Sequential(AdaptiveAvgPool2d(1), Flatten()), normalize=True, input_img_size=(3, 8, 8))
    >>> for real in (True, False): fid.update(torch.linspace(0, 1, 768).view(4, 3, 8, 8), real=real)
    >>> bool(fid.compute() < 1e-6)
    True
    """

    def compute(self) -> Tensor:
        """FID over all images seen, in the dtype of the features. Raises MeasureError under 2 images on a side."""
        if self.real_features_num_samples < 2 or self.fake_features_num_samples < 2:
            raise MeasureError(f"FID needs at least 2 images on each side, got {self.real_features_num_samples} and {self.fake_features_num_samples}")
        moments = []
        for side in ("real", "fake"):
            n = getattr(self, f"{side}_features_num_samples")
            mu = getattr(self, f"{side}_features_sum") / n
            moments += [mu, (getattr(self, f"{side}_features_cov_sum") - n * torch.outer(mu, mu)) / (n - 1)]
        return torch.tensor(frechet_from_moments(*moments), dtype=self.orig_dtype, device=self.device)
