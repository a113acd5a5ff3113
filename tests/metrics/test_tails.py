"""Oracle: plain loops over numpy; and a set whose tail is known by construction."""

import numpy as np
import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, Pair, resampled
from difflab.metrics.tails import tail_rows

TAIL, RECALL = METRICS["tail_recall"], METRICS["recall"]


def by_loops(real, fake, k):
    def radius(points, i):
        return sorted(np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i)[k - 1]

    tail = sorted(range(len(real)), key=lambda i: -radius(real, i))[: len(real) // 10]
    balls = [radius(fake, j) for j in range(len(fake))]
    return sum(
        any(np.linalg.norm(real[i] - fake[j]) <= balls[j] for j in range(len(fake))) for i in tail
    ) / len(tail)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("n", [100, 119])
def test_equals_loops(k, n):
    draw = torch.Generator().manual_seed(n)
    real, fake = torch.randn(n, 2, generator=draw), torch.randn(105, 2, generator=draw) * 0.8 + 0.2
    wanted = by_loops(real.double().numpy(), fake.double().numpy(), k)
    assert TAIL.of(Pair(real, fake, neighbours=k)) == pytest.approx(wanted, abs=1e-12)


def crowd_and_wanderers():
    """180 images in a crowd, 20 far out and far from each other."""
    draw = torch.Generator().manual_seed(0)
    far = torch.linalg.qr(torch.randn(20, 20, generator=draw)).Q * 50
    return torch.cat([torch.randn(180, 20, generator=draw) * 0.1, far])


def test_the_tail_is_found_and_its_loss_is_seen_where_recall_hardly_moves():
    real = crowd_and_wanderers()
    pair = Pair(real, torch.randn(200, 20, generator=torch.Generator().manual_seed(1)) * 0.1)
    assert tail_rows(pair, slice(None)).sort().values.tolist() == list(range(180, 200))
    assert TAIL.of(pair) == 0 and RECALL.of(pair) > 0.75
    assert TAIL.of(Pair(real, real.clone())) == 1


def test_a_half_takes_the_tenth_of_its_own_rows():
    real, fake = torch.randn(260, 3), torch.randn(250, 3) * 0.9
    pair = Pair(real, fake)
    r, f = torch.randperm(260)[:130].sort().values, torch.randperm(250)[:125].sort().values
    assert TAIL.of(pair, r, f) == TAIL.of(Pair(real[r], fake[f]))
    assert set(tail_rows(pair, r).tolist()) <= set(r.tolist()) and len(tail_rows(pair, r)) == 13
    alone = tail_rows(Pair(real[r], fake), slice(None))
    assert set(tail_rows(pair, r).tolist()) == set(r[alone].tolist())
    assert all(0 <= value <= 1 for value in resampled(TAIL, pair, range(5), 0))


def test_equal_distributions_cover_the_tail_less_than_the_rest():
    draw = torch.Generator().manual_seed(0)
    pairs = [
        Pair(torch.randn(200, 4, generator=draw), torch.randn(200, 4, generator=draw)) for _ in range(20)
    ]
    assert np.mean([TAIL.of(pair) for pair in pairs]) < np.mean([RECALL.of(pair) for pair in pairs])


def test_needs_ten_images_in_the_tail():
    x = torch.randn(120, 2)
    with pytest.raises(MeasureError, match="tail_recall needs at least 100 real images, got 99"):
        TAIL.of(Pair(x[:99], x))
    with pytest.raises(MeasureError, match="tail_recall needs at least 100 fake images, got 60"):
        TAIL.of(Pair(x, x), None, torch.arange(60))
    with pytest.raises(MeasureError, match="tail_recall needs at least 121 real images, got 120"):
        TAIL.of(Pair(x, x, neighbours=120))
