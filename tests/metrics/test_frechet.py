"""Oracles: scipy's matrix root, torchmetrics' FID on the same images, the closed form for N(0, I_d)."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance as Reference

from difflab.errors import MeasureError
from difflab.metrics import FrechetInceptionDistance, frechet_distance, frechet_from_moments


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
    assert frechet_distance(x, y) == pytest.approx(2 * spread, rel=1e-12)  # orthogonal lines: nothing is shared
    assert frechet_distance(x, x) < 1e-12
    assert frechet_distance(torch.ones(5, 3), torch.ones(7, 3)) == 0


def test_closed_form_of_two_samples_of_one_normal():
    d, n, chains = 16, 4000, 40
    wanted = (1 / n + 1 / n) * (d + d * (d + 1) / 4)
    draw = torch.Generator().manual_seed(0)
    values = torch.tensor([frechet_distance(torch.randn(n, d, generator=draw), torch.randn(n, d, generator=draw)) for _ in range(chains)])
    assert abs(values.mean() - wanted) < 4 * values.std() / chains**0.5


class Colours(nn.Module):
    """A random-weight network with 24 features."""

    num_features = 24

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Conv2d(3, 24, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).requires_grad_(False)

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
