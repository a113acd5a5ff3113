"""Oracles: the closed forms of normal and uniform distributions, and scikit-learn's neighbours with scipy's
special functions.
"""

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma, gammaln
from sklearn.neighbors import NearestNeighbors

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, Pair, knn_entropy, resampled

ENTROPY = METRICS["knn_entropy"]


def by_sklearn(x, k):
    x = x.double().numpy()
    n, d = x.shape
    distance = NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, k]
    return digamma(n) - digamma(k) + d / 2 * np.log(np.pi) - gammaln(d / 2 + 1) + d * np.log(distance).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "d"), [(200, 1), (150, 2), (80, 64), (6, 3)])
def test_equals_sklearn_and_scipy(n, d, k):
    x = torch.randn(n, d) * 3 + 10
    assert knn_entropy(x, k) == pytest.approx(by_sklearn(x, k), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("mix", [[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.0], [0.4, 1.5]]])
def test_a_normal_distribution_in_two_dimensions_has_ln_2_pi_e_and_ln_det(mix):
    draw, chains = torch.Generator().manual_seed(0), 60
    values = torch.tensor(
        [knn_entropy(torch.randn(600, 2, generator=draw) @ torch.tensor(mix)) for _ in range(chains)]
    )
    wanted = math.log(2 * math.pi * math.e) + math.log(np.linalg.det(mix))
    assert abs(values.mean() - wanted) < 4 * values.std() / chains**0.5


def test_variance_is_what_the_docstring_says():
    """(psi'(k) + var log p) / n and a little more, since neighbours share distances; var log p = d/2 for a
    normal distribution.
    """
    draw = torch.Generator().manual_seed(0)
    for k, trigamma in ((1, 1.6449), (5, 0.2213)):
        values = torch.tensor([knn_entropy(torch.randn(200, 2, generator=draw), k) for _ in range(200)])
        assert 0.8 < values.var().item() * 200 / (trigamma + 1) < 1.5


def test_uniform_on_a_segment_has_the_log_of_its_length():
    draw, n, chains = torch.Generator().manual_seed(1), 50, 60
    values = torch.tensor(
        [knn_entropy(torch.rand(n, 1, generator=draw, dtype=torch.float64) * 7) for _ in range(chains)]
    )
    # At its two ends a neighbour can be on one side only.
    assert abs(values.mean() - math.log(7)) < 4 * values.std() / chains**0.5 + 2 / n


def test_laws_of_differential_entropy():
    x = torch.randn(90, 12)
    turn = torch.linalg.qr(torch.randn(12, 12)).Q
    assert knn_entropy(x * 255) == pytest.approx(knn_entropy(x) + 12 * math.log(255), rel=1e-6)
    assert knn_entropy(x @ turn + 5) == pytest.approx(knn_entropy(x), rel=1e-4)


def test_falls_when_samples_move_together():
    x, noise = torch.randn(100, 8), torch.randn(100, 8)
    values = [knn_entropy(x[torch.arange(100) // 2] + s * noise) for s in (1, 0.1, 0.01, 0.001)]
    assert values == sorted(values, reverse=True) and values[2] - values[3] == pytest.approx(
        8 * math.log(10), abs=0.5
    )


def test_measure_is_of_the_samples_and_k_is_one_whatever_neighbours_is():
    real, fake = torch.randn(60, 4), torch.randn(50, 4)
    for neighbours in (1, 5, 9):
        assert ENTROPY.of(Pair(real, fake, neighbours=neighbours)) == pytest.approx(
            knn_entropy(fake), rel=1e-12
        )
    pair, rows = Pair(real, fake), torch.randperm(50)[:21].sort().values
    assert ENTROPY.of(pair, None, rows) == pytest.approx(knn_entropy(fake[rows]), rel=1e-6)
    assert len(set(resampled(ENTROPY, pair, range(4), 0))) == 4


def test_copies_are_counted_not_floored():
    x = torch.randn(40, 20) * 10 + 1000
    doubled = torch.cat([x, x[:3], x[:1]])
    with pytest.raises(MeasureError, match="-infinity: 7 of 44 samples have a copy"):
        knn_entropy(doubled)
    with pytest.raises(MeasureError, match="-infinity: 3 of 44 samples have 2 copies"):
        knn_entropy(doubled, 2)
    assert math.isfinite(knn_entropy(doubled, 3))
    pair = Pair(x, doubled)
    with pytest.raises(MeasureError, match="7 of 44 samples"):
        ENTROPY.of(pair)
    # A half without both copies has a value.
    assert ENTROPY.of(pair, None, torch.arange(40)) == pytest.approx(knn_entropy(x), rel=1e-5)


def test_bad_input():
    x = torch.randn(5, 2)
    for bad, match in (
        (lambda: knn_entropy(x, 0), "k of at least 1"),
        (lambda: knn_entropy(x, 5), "more than k images, got 5"),
        (lambda: knn_entropy(x[:0]), "got 0"),
        (lambda: ENTROPY.of(Pair(x, x[:1])), "knn_entropy needs at least 2 fake images, got 1"),
        (lambda: ENTROPY.of(Pair(x, torch.ones(9, 2))), "9 of 9 samples"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()
