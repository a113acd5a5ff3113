"""The standard error of the Frechet distance against its spread over fresh draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from difflab.metrics.frechet import FrechetDistance, frechet_distance
from difflab.metrics.frechet_influence import AXES, _axes, frechet_influence
from difflab.metrics.pair import Pair


def drawn(n: int, d: int, seed: int, width: float, shift: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, d + 1).double() ** -0.5
    return (width * torch.randn(n, d, generator=generator, dtype=torch.float64) + shift) * scale


@pytest.mark.parametrize("n, d", [(150, 8), (60, 8), (50, 120)], ids=["many", "few", "fewer than features"])
@pytest.mark.parametrize("width, shift", [(1.0, 0.0), (0.8, 0.5)], ids=["equal", "different"])
def test_the_error_is_the_spread_over_draws(n, d, width, shift):
    """80 draws: the spread is known to 8%."""
    values, errors = [], []
    for k in range(80):
        x, y = drawn(n, d, 2 * k, 1.0, 0.0), drawn(n, d, 2 * k + 1, width, shift)
        values.append(frechet_distance(x, y))
        errors.append(frechet_influence(x, y).error)
    ratio = np.mean(errors) / np.std(values, ddof=1)
    assert 0.75 < ratio < 1.4
    covered = np.abs(np.array(values) - np.mean(values)) < 1.96 * np.array(errors)
    assert covered.mean() >= 0.85


def test_between_equal_distributions_the_second_order_term_is_counted_once():
    x, y = drawn(400, 6, 0, 1.0, 0.0), drawn(400, 6, 1, 1.0, 0.0)
    influence = frechet_influence(x, y)
    first = float(influence.real.square().sum() + influence.fake.square().sum())
    assert influence.quadratic > 0.2 * first
    assert influence.variance < 0.85 * first


def test_images_that_are_all_the_same_have_no_error():
    same = torch.ones(10, 3)
    assert frechet_influence(same, same).error == 0.0


def root(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


@pytest.mark.parametrize("n, m, d", [(150, 170, 8), (20, 30, 60), (30, 20, 60)], ids=str)
def test_first_order_is_the_transport_map_between_the_normal_fits(n, m, d):
    """M = S_1^(-1/2) (S_1^(1/2) S_2 S_1^(1/2))^(1/2) S_1^(-1/2), on the space of the rows."""
    x, y = drawn(n, d, 0, 1.0, 0.0), drawn(m, d, 1, 0.8, 0.5)
    mu, nu = x.mean(0), y.mean(0)
    half = root((x - mu).T @ (x - mu) / (n - 1))
    inverse = torch.linalg.pinv(half, rtol=1e-6, hermitian=True)
    middle = root(half @ ((y - nu).T @ (y - nu) / (m - 1)) @ half)
    centred = x - mu
    moved = ((centred @ (inverse @ middle @ inverse)) * centred).sum(1)
    expected = 2 * centred @ (mu - nu) + centred.square().sum(1) - moved
    expected = (expected - expected.mean()) / (n * (n - 1)) ** 0.5
    assert torch.allclose(frechet_influence(x, y).real, expected, atol=1e-6 * float(expected.abs().max()))
    assert torch.allclose(frechet_influence(y, x).fake, expected, atol=1e-6 * float(expected.abs().max()))


def test_known_inner_products_change_nothing():
    x, y = drawn(40, 60, 0, 1.0, 0.0), drawn(30, 60, 1, 0.8, 0.5)
    rows = torch.arange(20)
    known, fresh = FrechetDistance.influence(Pair(x, y), rows, rows), frechet_influence(x[:20], y[:20])
    assert torch.allclose(known.real, fresh.real) and torch.allclose(known.fake, fresh.fake)


def test_first_eigenvectors_explain_what_the_best_ones_do():
    rows = drawn(2 * AXES + 100, 2 * AXES + 50, 0, 1.0, 0.0)
    values, axes = _axes(rows)
    best = torch.linalg.svdvals(rows).square().flip(0)[-AXES:]
    assert len(values) == AXES and torch.allclose(values[-50:], best[-50:], rtol=1e-3)
    assert float(values.sum()) > 0.95 * float(best.sum())
    assert torch.allclose(axes.T @ axes, values.diag(), atol=1e-6 * float(values[-1]))


def test_many_dimensions_hardly_change_the_second_order_term(monkeypatch):
    x, y = drawn(300, 2 * AXES + 50, 0, 1.0, 0.0), drawn(300, 2 * AXES + 50, 1, 1.0, 0.0)
    quick = frechet_influence(x, y).quadratic
    monkeypatch.setattr("difflab.metrics.frechet_influence.AXES", 1000)
    assert quick == pytest.approx(frechet_influence(x, y).quadratic, rel=0.05)
