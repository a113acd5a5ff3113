"""The standard error of the Frechet distance against its spread over fresh draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from difflab.metrics.frechet import frechet_distance
from difflab.metrics.frechet_influence import frechet_influence


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
