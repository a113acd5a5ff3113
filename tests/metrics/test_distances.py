"""Squared distances equal numpy's in any blocking and precision, are symmetric, and are 0 for copies."""

import numpy as np
import pytest
import torch

from difflab.metrics import squared_distances


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_squared_distances_are_numpy_s_in_any_blocking(block):
    x, y = torch.randn(30, 5) + 100, torch.randn(20, 5) + 100
    wanted = ((x.double().numpy()[:, None] - y.double().numpy()[None]) ** 2).sum(-1)
    np.testing.assert_allclose(squared_distances(x, y, block), wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", ["apart", "some near", "clusters", "steep"])
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_squared_distances_of_many_features_are_those_of_float64(kind, precision):
    """A product in float32 would be wrong by 1e-7 of the norms: by all of a distance a thousandth as long as
    the rows.
    """
    scale = torch.arange(1, 301).float().pow(-1 if kind == "steep" else -0.25)
    x, y = torch.randn(400, 300) * scale + 3, torch.randn(300, 300) * scale + 3
    if kind == "some near":
        y[:40] = x[:40] + 1e-3 * torch.randn(40, 300)
    if kind == "clusters":
        x, y = (0.01 * side + torch.randn(5, 300).repeat(len(side) // 5, 1) for side in (x, y))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found, own = squared_distances(x, y), squared_distances(x, x)
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_allclose(found, ((x.double()[:, None] - y.double()[None]) ** 2).sum(-1), rtol=1e-6)
    np.testing.assert_allclose(own, ((x.double()[:, None] - x.double()[None]) ** 2).sum(-1), rtol=1e-6)
    assert torch.equal(own, own.T) and (own.diagonal() == 0).all()


def test_distances_within_a_set_are_symmetric_to_the_bit():
    """Near pairs are taken one by one: one that is near by a rounding must be so both ways.

    Without care 8 of these 30 sets are not.
    """
    for seed in range(30):
        draw = torch.Generator().manual_seed(seed)
        side = torch.randn(333, 301, generator=draw) * torch.arange(1, 302).float().pow(-0.25) + 3
        x = 0.01 * side + torch.randn(5, 301, generator=draw).repeat(67, 1)[:333]
        own = squared_distances(x, x)
        assert torch.equal(own, own.T), seed


def test_copies_are_at_distance_exactly_zero():
    x = torch.randn(50, 300) * 10 + 1000
    assert (squared_distances(x, x.clone()).diagonal() == 0).all()
