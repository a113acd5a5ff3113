"""Influences against finite differences of the measure, and their variance against theory."""

from __future__ import annotations

import pytest
import torch

from difflab.metrics import METRICS, Judge, Pair
from difflab.metrics.influence import Influence, variance_of


def drawn(n: int, d: int, seed: int, width: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    return width * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def replicated(x: torch.Tensor, times: int, extra: int | None) -> torch.Tensor:
    """Each row `times` times, and row `extra` once more: a little more weight for one image."""
    rows = x.repeat(times, 1)
    return rows if extra is None else torch.cat([rows, x[extra : extra + 1]])


def pair_of(real: torch.Tensor, fake: torch.Tensor, labels: tuple[torch.Tensor, torch.Tensor]) -> Pair:
    judge = Judge.fit(drawn(60, real.shape[1], 9), torch.arange(60) % 3, 3)
    return Pair(real, fake, real_labels=labels[0], fake_labels=labels[1], judge=judge)


@pytest.mark.parametrize("side", ["real", "fake"])
@pytest.mark.parametrize(
    "name",
    [
        "fd",
        "cmmd_biased",
        "trace_ratio",
        "within_class_ratio",
        "between_class_ratio",
        "vendi",
        "class_accuracy",
        "class_margin",
        "class_confidence",
        "class_entropy",
    ],
)
def test_the_influence_is_the_change_of_the_measure_with_the_weight_of_an_image(name, side):
    n, d, times = 30, 4, 40
    x, y = drawn(n, d, 0), drawn(n, d, 1, 0.7, 0.3)
    labels = torch.arange(n) % 3
    metric = METRICS[name]

    def value(extra_real: int | None = None, extra_fake: int | None = None) -> float:
        real, fake = replicated(x, times, extra_real), replicated(y, times, extra_fake)
        of_real, of_fake = (
            replicated(labels.unsqueeze(1), times, extra).squeeze(1) for extra in (extra_real, extra_fake)
        )
        return metric.of(pair_of(real.double(), fake.double(), (of_real, of_fake)))

    influence = metric.influence_of(pair_of(x.double(), y.double(), (labels, labels)))
    whole, images = value(), range(0, n, 6)
    changes = [value(**{f"extra_{side}": i}) - whole for i in images]
    # One image more among n * times is the weight 1 / (n * times + 1).
    expected = torch.tensor(changes, dtype=torch.float64) * (n * times + 1)
    got = getattr(influence, side)[list(images)] * (n * (n - 1)) ** 0.5
    scale = float(expected.abs().max())
    # The covariances of fd are divided by n - 1, not n: 3% at n = 30.
    assert torch.allclose(got, expected, atol=0.06 * scale + 1e-9)


def test_the_variance_of_a_degenerate_statistic_is_halved_and_no_more():
    parts = [torch.tensor([1.0, -1.0]), torch.tensor([2.0, -2.0])]
    assert variance_of(parts, 0.0) == 10.0
    assert variance_of(parts, 2.0) == 8.0
    assert variance_of(parts, 9.0) == 5.0


def test_images_that_a_measure_leaves_out_have_no_influence():
    fake = drawn(20, 3, 2)
    fake[[4, 7]] = 0
    influence = METRICS["vendi"].influence_of(Pair(drawn(20, 3, 3), fake))
    assert influence.fake[[4, 7]].tolist() == [0.0, 0.0] and int((influence.fake != 0).sum()) == 18
    assert not influence.real.any()


@pytest.mark.parametrize("name", ["recall", "coverage", "spacing_ratio"])
def test_nearest_neighbour_measures_have_none(name):
    assert METRICS[name].influence_of(Pair(drawn(40, 3, 0), drawn(40, 3, 1))) is None


def test_one_image_has_no_variance():
    assert Influence.of(torch.ones(1), torch.ones(1)).error == 0.0


def without(pair: Pair, j: int) -> torch.Tensor:
    return torch.cat([pair.fake[:j], pair.fake[j + 1 :]])


def test_a_sample_moves_repeats_by_the_images_that_count_because_of_it():
    """Against the count among all other samples, below the same threshold; also of the second-order term."""
    pair = Pair(drawn(60, 2, 4), drawn(60, 2, 5, 0.2))
    n, threshold = 60, torch.cdist(pair.real, pair.real).fill_diagonal_(9).min(1).values.min()

    def count(rows: torch.Tensor) -> int:
        return int((torch.cdist(rows, rows).fill_diagonal_(9).min(1).values <= threshold).sum())

    influence = METRICS["repeats"].influence_of(pair)
    whole = count(pair.fake)
    assert METRICS["repeats"].of(pair) == whole / n
    alone = torch.tensor([whole - count(without(pair, j)) for j in range(n)], dtype=torch.float64)
    assert alone.max() > 1
    assert torch.allclose(influence.fake, (alone - alone.mean()) / n)
    second = 0.0
    for i in range(n):
        for j in range(i):
            both = count(torch.cat([pair.fake[:j], pair.fake[j + 1 : i], pair.fake[i + 1 :]]))
            second += float(whole - (whole - alone[i]) - (whole - alone[j]) + both) ** 2
    assert influence.quadratic == pytest.approx(second / n**2, rel=0.35)


def test_a_sample_moves_tail_recall_by_the_tail_images_that_it_alone_covers():
    pair = Pair(drawn(120, 3, 6), drawn(100, 3, 7, 0.8))
    own, across = torch.cdist(pair.real, pair.real), torch.cdist(pair.real, pair.fake)
    tail = own.sort(1).values[:, 5].topk(12).indices
    inside = across[tail] <= torch.cdist(pair.fake, pair.fake).sort(1).values[:, 5] * (1 + 1e-6)
    influence = METRICS["tail_recall"].influence_of(pair)
    alone = torch.stack(
        [
            inside.any(1).sum() - torch.cat([inside[:, :j], inside[:, j + 1 :]], 1).any(1).sum()
            for j in range(100)
        ]
    ).double()
    assert alone.max() > 0 and torch.allclose(influence.fake, (alone - alone.mean()) / 12)
    assert set(influence.real.nonzero().squeeze(1).tolist()) == set(tail.tolist())


def test_a_sample_moves_density_by_the_balls_that_it_is_in():
    pair = Pair(drawn(50, 3, 8), drawn(70, 3, 9, 0.8))
    radius = torch.cdist(pair.real, pair.real).sort(1).values[:, 5:6]
    balls = (torch.cdist(pair.real, pair.fake) <= radius * (1 + 1e-6)).sum(0).double() / 5
    influence = METRICS["density"].influence_of(pair)
    assert torch.allclose(influence.fake, (balls - balls.mean()) / (70 * 69) ** 0.5)
    assert METRICS["density"].of(pair) == pytest.approx(float(balls.mean()))
