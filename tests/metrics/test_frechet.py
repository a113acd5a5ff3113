"""Oracles: scipy's matrix root, torchmetrics' FID on the same images, the closed forms for N(0, I_d)."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance as Reference

from difflab.core.errors import MeasureError
from difflab.metrics import (
    METRICS,
    FrechetInceptionDistance,
    Pair,
    fd_infinity,
    frechet,
    frechet_distance,
    frechet_from_moments,
    resampled,
)

INFINITY = METRICS["fd_infinity"]


def by_scipy(x, y):
    x, y = x.double().numpy(), y.double().numpy()
    c1, c2 = np.cov(x.T), np.cov(y.T)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 12), (300, 13, 12)])
def test_equals_scipy_s_root(n, m, d):
    x, y = torch.randn(n, d) @ torch.randn(d, d), torch.randn(m, d) + 0.3
    assert frechet_distance(x, y) == pytest.approx(by_scipy(x, y), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(20, 15, 64), (20, 100, 64), (100, 90, 64), (64, 65, 64)])
def test_rows_and_moments_agree_and_the_sides_can_be_swapped(n, m, d):
    x, y = torch.randn(n, d, dtype=torch.float64), torch.randn(m, d, dtype=torch.float64) * 2 + 1
    value = frechet_distance(x, y)
    assert value == pytest.approx(frechet_from_moments(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()), rel=1e-6)
    assert value == pytest.approx(frechet_distance(y, x), rel=1e-12)


def test_rank_deficient_input_gives_a_real_number():
    x, y = torch.zeros(50, 30), torch.zeros(50, 30)
    x[:, 0], y[:, 1] = torch.linspace(-1, 1, 50), torch.linspace(-1, 1, 50)
    spread = x.double().var(0).sum().item()
    # Orthogonal lines: nothing is shared.
    assert frechet_distance(x, y) == pytest.approx(2 * spread, rel=1e-12)
    assert frechet_distance(x, x) < 1e-12
    assert frechet_distance(torch.ones(5, 3), torch.ones(7, 3)) == 0


def test_closed_form_of_two_samples_of_one_normal():
    d, n, chains = 16, 4000, 40
    wanted = (1 / n + 1 / n) * (d + d * (d + 1) / 4)
    draw = torch.Generator().manual_seed(0)
    values = torch.tensor(
        [
            frechet_distance(torch.randn(n, d, generator=draw), torch.randn(n, d, generator=draw))
            for _ in range(chains)
        ]
    )
    assert abs(values.mean() - wanted) < 4 * values.std() / chains**0.5


class Colours(nn.Module):
    """A random-weight network with 24 features."""

    num_features = 24

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Conv2d(3, 24, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            ).requires_grad_(False)

    def forward(self, images):
        return self.net(images.float() / 255)


@pytest.mark.parametrize("n", [100, 40])
def test_fid_is_torchmetrics_fid(n):
    draw = torch.Generator().manual_seed(1)
    real = torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=draw)
    fake = torch.randint(40, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=draw)
    ours, theirs = FrechetInceptionDistance(Colours()), Reference(Colours())
    for metric in (ours, theirs):
        for batch in real.split(30):
            metric.update(batch, real=True)
        metric.update(fake, real=False)
    assert ours.compute().dtype == theirs.compute().dtype
    assert ours.compute().item() == pytest.approx(theirs.compute().item(), rel=1e-4)
    features = Colours()
    assert ours.compute().item() == pytest.approx(frechet_distance(features(real), features(fake)), rel=1e-5)


def test_fid_with_fewer_images_than_features_is_never_nan():
    metric = FrechetInceptionDistance(Colours())
    images = torch.arange(4 * 3 * 16 * 16).remainder(251).to(torch.uint8).view(4, 3, 16, 16)
    metric.update(images, real=True)
    with pytest.raises(MeasureError, match="at least 2 images"):
        metric.compute()
    metric.update(images, real=False)
    metric._computed = None
    assert 0 <= metric.compute() < 1e-6


@pytest.mark.parametrize(("d", "step"), [(7, 3), (7, 256), (1, 1)])
def test_the_product_of_triangles_is_numpy_s(d, step):
    draw = np.random.default_rng(0)
    a, b = (np.triu(draw.normal(size=(d, d))) for _ in range(2))
    product = frechet._product_of_triangles(torch.from_numpy(a), torch.from_numpy(b), step)
    np.testing.assert_allclose(product.numpy(), a @ b.T, rtol=1e-12, atol=1e-12)


def test_bad_input():
    x = torch.randn(5, 3)
    for bad, match in (
        (lambda: frechet_distance(x[:1], x), "at least 2"),
        (lambda: frechet_distance(x * float("inf"), x), "finite"),
        (lambda: frechet_from_moments(x[0], torch.eye(3) * float("nan"), x[0], torch.eye(3)), "finite"),
        (lambda: frechet_from_moments(x[0], -torch.eye(3), x[0], torch.eye(3)), "not a covariance"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()


def line_by_numpy(x, y, parts, seed):
    draw, means = np.random.default_rng(seed), []
    for count in parts:
        xs, ys = (np.array_split(draw.permutation(len(side)), count) for side in (x, y))
        means.append(np.mean([by_scipy(x[a], y[b]) for a, b in zip(xs, ys, strict=True)]))
    return np.linalg.lstsq(np.stack([np.ones(len(parts)), parts], 1), np.array(means), rcond=None)[0][0]


@pytest.mark.parametrize("parts", [(1, 2), (1, 2, 3, 5), (2, 1)])
def test_fd_infinity_is_the_intercept_of_a_line(parts):
    x, y = torch.randn(90, 6), torch.randn(101, 6) * 0.8 + 0.3
    assert fd_infinity(x, y, parts, seed=4) == pytest.approx(
        line_by_numpy(x, y, parts, 4), rel=1e-9, abs=1e-9
    )


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (0.8, 0.3)])
@pytest.mark.parametrize("n", [40, 80])
def test_fd_infinity_has_the_distance_of_the_distributions_as_expectation(n, a, b):
    """Between N(0, I_d) and N(b, a^2 I_d) it is d (1 - a)^2 + d b^2: `fd` is far above, here at n = 4 d and 8
    d.
    """
    d, chains = 10, 120
    draw = torch.Generator().manual_seed(n)
    values, plain = [], []
    for _ in range(chains):
        pair = Pair(torch.randn(n, d, generator=draw), torch.randn(n, d, generator=draw) * a + b)
        values.append(INFINITY.of(pair))
        plain.append(frechet_distance(pair.real, pair.fake))
    values, wanted = torch.tensor(values), d * (1 - a) ** 2 + d * b**2
    error = values.std().item() / chains**0.5
    assert abs(values.mean().item() - wanted) < 4 * error < sum(plain) / chains - wanted
    assert (values < 0).any() or a < 1


def test_fd_infinity_with_the_fewest_images_it_takes_overshoots_by_a_twentieth_of_what_it_takes_away():
    d, chains, draw = 10, 150, torch.Generator().manual_seed(0)
    pairs = [
        Pair(torch.randn(2 * d, d, generator=draw), torch.randn(2 * d, d, generator=draw))
        for _ in range(chains)
    ]
    taken = np.mean([frechet_distance(pair.real, pair.fake) for pair in pairs])
    assert -0.1 < np.mean([INFINITY.of(pair) for pair in pairs]) / taken < 0


def test_fd_infinity_depends_on_rows_and_seed_alone():
    x, y = torch.randn(60, 4), torch.randn(60, 4)
    first = fd_infinity(x, y)
    torch.rand(3), np.random.random()
    assert fd_infinity(x, y) == first != fd_infinity(x, y, seed=1)
    pair, r, f = Pair(x, y), torch.randperm(60)[:30].sort().values, torch.randperm(60)[:30].sort().values
    assert INFINITY.of(pair) == first and INFINITY.of(pair, r, f) == fd_infinity(x[r], y[f])
    assert len(set(resampled(INFINITY, pair, range(4), 0))) == 4


def test_fd_infinity_wants_halves_of_as_many_rows_as_features():
    x = torch.randn(40, 20)
    assert np.isfinite(INFINITY.of(Pair(x, x + 1)))
    with pytest.raises(MeasureError, match="fd_infinity needs at least 40 fake images, got 39"):
        INFINITY.of(Pair(x, x[:39]))
    for bad, match in (
        (lambda: fd_infinity(x, x, (1,)), "two sizes"),
        (lambda: fd_infinity(x, x, (2, 2)), "two sizes"),
        (lambda: fd_infinity(x, x, (0, 1)), "two sizes"),
        (lambda: fd_infinity(x, x[:7], (1, 4)), r"at least 2 images each, got parts \(1, 4\) of 7 images"),
        (lambda: fd_infinity(x, x * float("nan")), "finite"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()
