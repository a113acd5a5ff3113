"""The influence of each image on the Frechet distance.

    FD = |mu_1 - mu_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)

The derivative of the last term in the direction of S_1 is -M, where M is the optimal transport map between
the two normal distributions, M S_1 M = S_2 (Takatsu 2011, Wasserstein geometry of Gaussian measures). An
image x therefore has the influence 2 (mu_1 - mu_2)'x + x'x - x'Mx, with x about the mean of its side.

Near S_1 = S_2 the distance is a squared distance between means of the features x and
x_i x_j / (2 (l_i + l_j))^(1/2), in the basis where the covariance is diagonal with eigenvalues l. The
variance of the second-order term follows from the kernel of these features on random pairs of images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from difflab.metrics.influence import Influence

PAIRS = 1000
"""Random pairs of images from which the second-order term is estimated: an error of about 5%."""
RESOLVED = 1e-10
"""Smallest eigenvalue, relative to the largest, that counts as one."""


def frechet_influence(x_ND: Tensor, y_MD: Tensor) -> Influence:
    """Influence of each row of [n, d] and [m, d] on the Frechet distance, in float64.

    Costs two eigenvalue problems of min(n, m, d) rows and one of min(n + m, d).

    >>> draw = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(500, 1, generator=draw), 3 + torch.randn(500, 1, generator=draw)
    >>> round(frechet_influence(x, y).error, 2)  # of 3^2: about 2 * 3 * sqrt(2 / 500) = .38
    0.39
    """
    mu_1, mu_2 = (side.mean(0, dtype=torch.float64) for side in (x_ND, y_MD))
    x, y = x_ND - mu_1, y_MD - mu_2
    gap = mu_1 - mu_2
    transported_x, transported_y = _transported(x, y)
    return Influence.of(
        2 * (x @ gap) + x.square().sum(1) - transported_x,
        -2 * (y @ gap) + y.square().sum(1) - transported_y,
        _quadratic(x, y),
    )


def _transported(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x'Mx of each centred row of x, and y'M^-1 y of each of y."""
    n, m = len(x), len(y)
    if min(n, m) <= x.shape[1]:
        # With the rows as factors, S_1 = X'X / (n - 1), the two are diagonals of (CC')^1/2 and (C'C)^1/2,
        # where C = XY'.
        left, roots, right = torch.linalg.svd(x @ y.T, full_matrices=False)
        scale = ((n - 1) / (m - 1)) ** 0.5
        return left.square() @ roots * scale, right.T.square() @ roots / scale
    values, vectors = _kept(y.T @ y / (m - 1))
    factor = vectors * values.sqrt()  # S_2 = LL'
    squares, turns = _kept(factor.T @ (x.T @ x / (n - 1)) @ factor)
    roots = squares.sqrt()
    return (
        (x @ (factor @ turns)).square() @ (1 / roots),
        (y @ (vectors / values.sqrt()) @ turns).square() @ roots,
    )


def _kept(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues above `RESOLVED` of the largest, and their eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > RESOLVED * values[-1:]
    return values[kept], vectors[:, kept]


def _quadratic(x: Tensor, y: Tensor) -> float:
    """Variance of the second-order term, from centred rows."""
    n, m = len(x), len(y)
    rows = torch.cat([x / (2 * (n - 1)) ** 0.5, y / (2 * (m - 1)) ** 0.5])
    if n + m <= rows.shape[1]:
        values, vectors = _kept(rows @ rows.T)
        turned = vectors * values.sqrt()
    else:
        values, vectors = _kept(rows.T @ rows)
        turned = rows @ vectors
    if not len(values):
        return 0.0
    squares_x = _mean_squared_kernel(turned[:n] * (2 * (n - 1)) ** 0.5, values)
    squares_y = _mean_squared_kernel(turned[n:] * (2 * (m - 1)) ** 0.5, values)
    return float(2 * (squares_x**0.5 / n + squares_y**0.5 / m) ** 2)


def _mean_squared_kernel(z: Tensor, values: Tensor) -> Tensor:
    """Mean over pairs of rows of the squared kernel x'y + sum_ij (x_i x_j - S_ij)(y_i y_j - S_ij) /
    2 (l_i + l_j), with S diagonal.
    """
    draw = torch.Generator().manual_seed(0)
    i = torch.randint(len(z), (PAIRS,), generator=draw)
    j = (i + torch.randint(1, len(z), (PAIRS,), generator=draw)) % len(z)
    products = z[i] * z[j]
    inverse = 1 / (values.unsqueeze(1) + values)
    both = ((products @ inverse) * products).sum(1)
    # l_i / (l_i + l_i) = 1/2 weights the diagonal terms of the centring.
    of_i, of_j = z[i].square().sum(1) / 2, z[j].square().sum(1) / 2
    kernel = products.sum(1) + (both - of_i - of_j + values.sum() / 2) / 2
    return kernel.square().mean()
