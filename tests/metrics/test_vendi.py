"""Oracles: the eigenvalues of the whole kernel by scipy, sets of known diversity, and how the score grows
with n.
"""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, Pair, resampled, vendi_score
from difflab.metrics.vendi import cosines

VENDI = METRICS["vendi"]


def by_scipy(x, q):
    """Straight from the definition: the n x n kernel of unit rows, its eigenvalues, their Renyi entropy."""
    x = x.double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    shares = scipy.linalg.eigvalsh(x @ x.T / len(x))
    shares = shares[shares > 1e-12]
    if q == 1:
        return np.exp(-(shares * np.log(shares)).sum())
    return 1 / shares.max() if q == math.inf else (shares**q).sum() ** (1 / (1 - q))


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 1.0, 2.0, 30.0, math.inf])
@pytest.mark.parametrize(("n", "d"), [(40, 7), (7, 40), (20, 20), (1, 3)])
def test_equals_the_eigenvalues_of_the_whole_kernel(n, d, q):
    x = torch.randn(n, d) + 0.3
    assert vendi_score(x, q) == pytest.approx(by_scipy(x, q), rel=1e-9)


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 2.0, math.inf])
def test_known_diversities(q):
    draw = torch.Generator().manual_seed(0)
    # Orthogonal rows, any length.
    turn = torch.linalg.qr(torch.randn(12, 12, generator=draw)).Q * torch.rand(12, 1, generator=draw).add(0.1)
    assert vendi_score(turn, q) == pytest.approx(12, rel=1e-5)
    # Equally many of three kinds, n > d.
    assert vendi_score(turn[:3].repeat(30, 1), q) == pytest.approx(3, rel=1e-5)
    assert vendi_score(turn[:1].repeat(5, 1), q) == pytest.approx(1, rel=1e-5)  # n < d
    # Opposite signs are one direction.
    assert vendi_score(torch.tensor([[1.0], [2.0], [-3.0]]), q) == pytest.approx(1)


def test_unequal_kinds_are_the_hill_numbers_of_their_shares():
    x = torch.eye(6)[[0] * 7 + [1] * 2 + [2]]
    p = np.array([0.7, 0.2, 0.1])
    assert vendi_score(x, 0) == pytest.approx(3)
    assert vendi_score(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert vendi_score(x, 2) == pytest.approx(1 / (p**2).sum())
    assert vendi_score(x, math.inf) == pytest.approx(1 / 0.7)
    scores = [vendi_score(x, q) for q in (0, 0.5, 0.999999, 1, 1.000001, 2, 50, math.inf)]
    assert scores == sorted(scores, reverse=True) and scores[2] == pytest.approx(scores[4], rel=1e-4)


def test_isotropic_rows_approach_d_as_marchenko_and_pastur_say():
    """At q = 2 the expectation is exact: E sum l^2 = 1/n + (1 - 1/n)/d for independent uniform directions."""
    draw, n, d, chains = torch.Generator().manual_seed(0), 60, 16, 200
    purity = torch.tensor([1 / vendi_score(torch.randn(n, d, generator=draw), 2) for _ in range(chains)])
    assert abs(purity.mean() - (1 / n + (1 - 1 / n) / d)) < 4 * purity.std() / chains**0.5


def test_measure_is_the_score_of_the_samples_alone():
    real, fake = torch.randn(30, 8), torch.randn(50, 8)
    assert VENDI.of(Pair(real, fake)) == vendi_score(fake) and VENDI.of(Pair(fake, real)) == vendi_score(real)


@pytest.mark.parametrize("d", [6, 70, 300])
def test_of_rows_equals_the_score_of_those_rows(d):
    """n > d in both, n < d in the half only, n < d in both."""
    fake = torch.randn(100, d)
    pair, rows = Pair(torch.randn(10, d), fake), torch.randperm(100)[:50].sort().values
    assert VENDI.of(pair, None, rows) == pytest.approx(vendi_score(fake[rows]), rel=1e-12)
    assert len(set(resampled(VENDI, pair, range(4), 0))) == 4


def test_blocks_of_columns_do_not_matter():
    x = torch.randn(9, 50)
    torch.testing.assert_close(cosines(x, 7), cosines(x, 4096), rtol=1e-13, atol=1e-13)


def test_copies_lower_it_and_scale_does_not():
    x = torch.randn(40, 100)
    assert vendi_score(torch.cat([x[:20], x[:20]])) == pytest.approx(
        vendi_score(x[:20]), rel=1e-9
    ) and vendi_score(x[:20]) < vendi_score(x)
    assert vendi_score(x * torch.rand(40, 1).add(1e-3)) == pytest.approx(vendi_score(x), rel=1e-6)


def test_bad_input():
    x = torch.randn(5, 3)
    hole = x.clone()
    hole[[1, 4]] = 0
    for bad, match in (
        (lambda: vendi_score(x, -1), "order q of 0 or more"),
        (lambda: vendi_score(x, math.nan), "order q of 0 or more"),
        (lambda: vendi_score(x[:0]), "at least 1 image"),
        (lambda: vendi_score(hole), "2 of 5 images have features of length 0"),
        (lambda: VENDI.of(Pair(torch.randn(5, 8), torch.zeros(5, 8))), "5 of 5 images"),
        (lambda: vendi_score(x * math.inf), "length 0 or infinity"),
        (lambda: VENDI.of(Pair(x, x[:1])), "vendi needs at least 2 fake images, got 1"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()
