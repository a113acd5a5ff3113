"""Oracle: precision, recall, density and coverage by plain loops over numpy on 60 points."""

import math

import numpy as np
import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, Pair
from difflab.metrics.precision_recall import nearest_others, radii


def by_loops(real, fake, k):
    def radius(points, i):
        return sorted(np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i)[k - 1]

    inside_real = np.array(
        [[np.linalg.norm(f - r) <= radius(real, i) for f in fake] for i, r in enumerate(real)]
    )
    inside_fake = np.array(
        [[np.linalg.norm(f - r) <= radius(fake, j) for j, f in enumerate(fake)] for r in real]
    )
    return {
        "precision": sum(any(inside_real[:, j]) for j in range(len(fake))) / len(fake),
        "recall": sum(any(row) for row in inside_fake) / len(real),
        "density": inside_real.sum() / (k * len(fake)),
        "coverage": sum(any(row) for row in inside_real) / len(real),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_loops(k):
    real, fake = torch.randn(60, 2), torch.randn(45, 2) * 0.6 + 0.4
    wanted = by_loops(real.double().numpy(), fake.double().numpy(), k)
    for name, value in wanted.items():
        assert METRICS[name].of(Pair(real, fake, neighbours=k)) == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("d", [1, 40])
def test_a_perfect_memoriser(d):
    """Copies lie on the spheres of each other's neighbours: the boundary counts, whatever the rounding."""
    real = torch.randn(80, d) * 3 + 50
    pair = Pair(real, real.clone()[torch.randperm(80)])
    assert METRICS["precision"].of(pair) == METRICS["recall"].of(pair) == METRICS["coverage"].of(pair) == 1
    # k neighbours and the own copy, over k.
    assert METRICS["density"].of(pair) == pytest.approx((5 + 1) * 80 / (5 * 80))


def test_duplicates_shrink_balls_to_points_that_still_hold_their_copies():
    real = torch.randn(4, 3).repeat_interleave(7, 0)
    pair = Pair(real, real[::7].repeat(7, 1))
    assert METRICS["precision"].of(pair) == METRICS["recall"].of(pair) == METRICS["coverage"].of(pair) == 1


def test_coverage_between_equal_distributions_is_naeem_s():
    draw = torch.Generator().manual_seed(0)
    n, k, chains = 120, 3, 60
    values = torch.tensor(
        [
            METRICS["coverage"].of(
                Pair(torch.randn(n, 2, generator=draw), torch.randn(n, 2, generator=draw), neighbours=k)
            )
            for _ in range(chains)
        ]
    )
    wanted = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    assert abs(values.mean() - wanted) < 4 * values.std() / chains**0.5


def test_radii_of_rows_fall_back_where_the_list_is_too_short():
    x = torch.randn(40, 3)
    rows = torch.arange(0, 40, 2)
    to_all = torch.cdist(x[rows].double(), x[rows].double()).fill_diagonal_(math.inf)
    wanted = to_all.kthvalue(4, dim=1).values ** 2
    for listed in (4, 8, 39):
        torch.testing.assert_close(
            radii(x, nearest_others(x, listed, block=7), rows, 4).double(), wanted, rtol=1e-5, atol=1e-6
        )


def test_needs_one_image_more_than_neighbours():
    x = torch.randn(5, 2)
    for name in ("precision", "recall", "density", "coverage"):
        with pytest.raises(MeasureError, match=f"{name} needs at least 6 real images, got 5"):
            METRICS[name].of(Pair(x, x))
        assert METRICS[name].of(Pair(x, x, neighbours=4)) > 0


@pytest.mark.parametrize("rows", [(None, None), (torch.arange(0, 2500, 2), torch.arange(1, 1500, 3))])
def test_what_is_too_large_to_hold_is_gone_through_in_blocks_with_the_same_numbers(monkeypatch, rows):
    real, fake = torch.randn(2500, 6), torch.randn(1500, 6) * 0.7 + 0.2
    names = ("precision", "recall", "density", "coverage", "tail_recall", "kid")
    held = {name: METRICS[name].of(Pair(real, fake), *rows) for name in names}
    monkeypatch.setattr("difflab.metrics.pair.HELD", 10_000)
    pair = Pair(real, fake)
    for name in names:
        assert METRICS[name].of(pair, *rows) == pytest.approx(held[name], rel=1e-6), name
    assert "rf" not in vars(pair)
    assert [len(block) for block in pair.distances(slice(None), slice(None))] == [1024, 1024, 452]
