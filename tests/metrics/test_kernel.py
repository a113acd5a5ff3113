"""Oracles: torchmetrics' KID with one subset of all n; CMMD's published formula over all pairs in float64."""

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, KernelDistance, Pair, cmmd_biased, resampled
from difflab.metrics.kernel import unit_rows

CMMD, BIASED = METRICS["cmmd"], METRICS["cmmd_biased"]


class AsTheyAre(nn.Module):
    num_features = 6

    def forward(self, images):
        return images.flatten(1)


def test_equals_torchmetrics_with_one_subset_of_everything():
    real, fake = torch.randn(80, 6), torch.randn(80, 6) * 0.7 + 0.2
    with pytest.warns(UserWarning, match="Kernel Inception Distance"):
        theirs = KernelInceptionDistance(AsTheyAre(), subsets=1, subset_size=80, normalize=True)
    theirs.update(real.view(80, 6, 1, 1), real=True)
    theirs.update(fake.view(80, 6, 1, 1), real=False)
    assert KernelDistance.of(Pair(real, fake)) == pytest.approx(theirs.compute()[0].item(), rel=1e-4)


def test_unbiased_where_the_frechet_distance_is_not():
    draw = torch.Generator().manual_seed(0)
    values = torch.tensor(
        [
            KernelDistance.of(Pair(torch.randn(30, 8, generator=draw), torch.randn(20, 8, generator=draw)))
            for _ in range(200)
        ]
    )
    assert abs(values.mean()) < 4 * values.std() / 200**0.5
    assert (values < 0).any()


@pytest.mark.parametrize(
    ("n", "m", "d", "mean"), [(1100, 1300, 200, 0.0), (1100, 1300, 200, 30.0), (40, 30, 3, 5.0)]
)
def test_equals_the_formula_in_float64_over_several_blocks(n, m, d, mean):
    """Where all rows share a large mean, the kernels are near 1e9 and the distance 1e-3 of them."""
    x, y = torch.randn(n, d) + mean, 0.8 * torch.randn(m, d) + mean + 0.1
    xx, yy, xy = (((a.double() @ b.double().T / d + 1) ** 3).numpy() for a, b in ((x, x), (y, y), (x, y)))
    wanted = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * xy.mean()
    assert KernelDistance.of(Pair(x, y)) == pytest.approx(wanted, rel=1e-5)


def published_cmmd(x, y):
    """The formula of google-research/cmmd on rows of length 1, in float64: every mean over all pairs, the
    diagonal too.
    """
    x, y = (
        side.double().numpy() / np.linalg.norm(side.double().numpy(), axis=1, keepdims=True)
        for side in (x, y)
    )
    k = lambda a, b: np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * 10**2))  # noqa: E731
    return k(x, x), k(y, y), k(x, y)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 30, 6), (7, 9, 100), (2, 2, 1)])
def test_cmmd_equals_the_published_formula_and_its_u_statistic(n, m, d):
    x, y = torch.randn(n, d) + 0.5, torch.randn(m, d) * 0.5
    xx, yy, xy = published_cmmd(x, y)
    biased = 1000 * (xx.mean() + yy.mean() - 2 * xy.mean())
    unbiased = 1000 * ((xx.sum() - n) / (n * (n - 1)) + (yy.sum() - m) / (m * (m - 1)) - 2 * xy.mean())
    assert cmmd_biased(x, y) == BIASED.of(Pair(x, y)) == pytest.approx(biased, rel=1e-6, abs=1e-6)
    assert CMMD.of(Pair(x, y)) == pytest.approx(unbiased, rel=1e-6, abs=1e-6)


def test_cmmd_is_unbiased_and_the_published_one_is_off_by_what_its_docstring_says():
    draw, n, m, chains = torch.Generator().manual_seed(0), 25, 15, 200
    values, biased = [], []
    for _ in range(chains):
        pair = Pair(torch.randn(n, 8, generator=draw) + 1, torch.randn(m, 8, generator=draw) + 1)
        values.append(CMMD.of(pair))
        biased.append(BIASED.of(pair))
    values, biased = torch.tensor(values), torch.tensor(biased)
    assert abs(values.mean()) < 4 * values.std() / chains**0.5 and (values < 0).any() and (biased > 0).all()
    xx, yy, _ = published_cmmd(
        torch.randn(600, 8, generator=draw) + 1, torch.randn(600, 8, generator=draw) + 1
    )
    mean_kernel = ((xx.sum() - 600) + (yy.sum() - 600)) / (2 * 600 * 599)
    wanted = 1000 * (1 - mean_kernel) * (1 / n + 1 / m)
    assert biased.mean().item() == pytest.approx(wanted, rel=0.05)


def test_cmmd_sees_directions_and_hardly_spread():
    draw = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(400, 16, generator=draw) + 1,
        torch.randn(400, 16, generator=draw) + torch.linspace(-1, 1, 16),
    )
    u, v = unit_rows(x), unit_rows(y)
    shift = (u.mean(0) - v.mean(0)).square().sum() - (u.var(0).sum() + v.var(0).sum()) / 400
    assert CMMD.of(Pair(x, y)) == pytest.approx(10 * shift.item(), rel=0.03)
    # Two points instead of a sphere, same mean.
    axis = torch.eye(16)[:1] * torch.tensor([1.0, -1.0]).repeat(200).view(-1, 1)
    assert 0 < CMMD.of(Pair(torch.randn(400, 16, generator=draw), axis)) < 0.1
    torch.testing.assert_close(
        CMMD.of(Pair(x * torch.rand(400, 1).add(0.1), y)), CMMD.of(Pair(x, y)), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("metric", [CMMD, BIASED])
def test_cmmd_on_rows_equals_a_pair_of_those_rows(metric):
    pair = Pair(torch.randn(60, 5) + 1, torch.randn(50, 5))
    r, f = torch.randperm(60)[:30].sort().values, torch.randperm(50)[:25].sort().values
    assert metric.of(pair, r, f) == pytest.approx(metric.of(Pair(pair.real[r], pair.fake[f])), rel=1e-6)
    assert len(set(resampled(metric, pair, range(4), 0))) == 4


def test_cmmd_of_a_set_and_its_copies():
    x = torch.randn(30, 6)
    assert cmmd_biased(x, x.clone()) == 0
    # The copies' zero distances stand in the mean between the sides only.
    assert CMMD.of(Pair(x, x.clone())) < 0


def test_cmmd_says_what_it_cannot_take():
    x = torch.randn(5, 3)
    hole = x.clone()
    hole[2] = 0
    for bad, match in (
        (
            lambda: CMMD.of(Pair(x, x * 0)),
            "needs at least 2 fake images, got 0: 5 of 5 images have features of length 0",
        ),
        (lambda: cmmd_biased(hole, x), "length 0"),
        (lambda: cmmd_biased(x, x[:, :2]), "3 dimensions, fake ones 2"),
        (lambda: cmmd_biased(x[:1], x), "at least 2 real images, got 1"),
        (lambda: CMMD.of(Pair(x, x[:1])), "cmmd needs at least 2 fake images, got 1"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()


@pytest.mark.parametrize("name", ["kid", "cmmd"])
def test_between_equal_distributions_the_error_is_the_spread_over_draws(name):
    """There the jackknife alone counts the variance twice: 1.41 times the spread. 150 draws know it to 6%."""
    values, errors = [], []
    for k in range(150):
        x, y = (torch.randn(60, 12, generator=torch.Generator().manual_seed(2 * k + i)) for i in range(2))
        pair = Pair(x, y)
        values.append(METRICS[name].of(pair))
        errors.append(METRICS[name].influence_of(pair).error)
    assert 0.85 < np.mean(errors) / np.std(values, ddof=1) < 1.2
