"""Oracles: the bootstrap memoriser, (1 - 1/n)^t in any feature space; numpy's singular vectors; Bartlett's
decomposition of a Wishart matrix.
"""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.special import digamma

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, Pair, TraceRatio, resampled

LOGDET = METRICS["logdet_ratio"]


def test_is_numpy_s_trace():
    real, fake = torch.randn(50, 4), torch.randn(50, 4) * 2
    wanted = np.trace(np.cov(fake.double().T, bias=True)) / np.trace(np.cov(real.double().T, bias=True))
    assert TraceRatio.of(Pair(real, fake)) == pytest.approx(wanted, rel=1e-12)


def test_bootstrap_memoriser_loses_one_over_n_a_generation():
    draw = torch.Generator().manual_seed(0)
    n, generations, chains = 50, 10, 300
    real, values = torch.randn(n, 3, generator=draw), []
    for _ in range(chains):
        fake = real
        for _ in range(generations):
            fake = fake[torch.randint(n, (n,), generator=draw)]
        values.append(TraceRatio.of(Pair(real, fake)))
    values = torch.tensor(values)
    assert abs(values.mean() - (1 - 1 / n) ** generations) < 4 * values.std() / chains**0.5


def test_no_spread_in_the_real_images_is_an_error():
    with pytest.raises(MeasureError, match="all the same"):
        TraceRatio.of(Pair(torch.ones(5, 2), torch.randn(5, 2)))


def in_numpy(real, fake, k=None):
    """The definition, by numpy's singular vectors of the centred real images."""
    real, fake = real.double().numpy(), fake.double().numpy()
    _, singular, directions = np.linalg.svd(real - real.mean(0), full_matrices=False)
    k = k or min(real.shape[1], len(real) // 10)
    own = singular[:k] ** 2 / len(real)
    return np.mean([np.log((fake @ v).var() / s) for v, s in zip(directions[:k], own, strict=True)])


@pytest.mark.parametrize(
    ("n", "m", "d"), [(100, 80, 4), (100, 60, 30), (60, 90, 200), (60, 60, 60), (80, 80, 50), (10, 10, 5000)]
)
def test_logdet_ratio_is_numpy_s(n, m, d):
    """n > d, n < d, and d between n/2 and n, where a half of the rows is on the other side."""
    scale = torch.linspace(1, 3, d)
    real, fake = torch.randn(n, d) * scale + 5, torch.randn(m, d) * scale * 0.7 - 1
    assert LOGDET.of(Pair(real, fake)) == pytest.approx(in_numpy(real, fake), rel=1e-6)
    if n >= 20:
        pair, r, f = (
            Pair(real, fake),
            torch.randperm(n)[: n // 2].sort().values,
            torch.randperm(m)[: m // 2].sort().values,
        )
        directions = min(d, n // 10)  # as many as of the whole pair
        assert LOGDET.of(pair, r, f) == pytest.approx(in_numpy(real[r], fake[f], directions), rel=1e-6)
        assert len(set(resampled(LOGDET, pair, range(4), 0))) == 4


@pytest.mark.parametrize("d", [5, 300])
def test_logdet_ratio_of_scaled_sets(d):
    real = torch.randn(100, d)
    assert LOGDET.of(Pair(real, real.clone())) == pytest.approx(0, abs=1e-9)
    assert LOGDET.of(Pair(real, real * 0.5 + 3)) == pytest.approx(np.log(0.25), rel=1e-5)
    assert LOGDET.of(Pair(real * 1000, real * 3000)) == pytest.approx(np.log(9), rel=1e-5)
    shrunk = real.clone()
    shrunk[:, 0] *= 1e-2
    assert TraceRatio.of(Pair(real, shrunk)) > 0.75 and LOGDET.of(Pair(real, shrunk)) < -0.0001


def test_logdet_ratio_hears_a_lost_direction_that_the_trace_does_not():
    real = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([100.0, 30, 10, 1])
    fake = real * torch.tensor([1.0, 1, 1, 0.01])
    assert TraceRatio.of(Pair(real, fake)) > 0.999 and LOGDET.of(Pair(real, fake)) < -1


def test_logdet_ratio_bias_between_two_normal_samples():
    """By Bartlett's decomposition: ln det of the real covariance has E psi((n-i)/2), the samples' variance in
    any fixed direction psi((n-1)/2).
    """
    draw, n, d, chains = torch.Generator().manual_seed(0), 100, 10, 300
    values = torch.tensor(
        [
            LOGDET.of(Pair(torch.randn(n, d, generator=draw), torch.randn(n, d, generator=draw)))
            for _ in range(chains)
        ]
    )
    wanted = digamma((n - 1) / 2) - np.mean([digamma((n - i) / 2) for i in range(1, d + 1)])
    assert 0.04 < wanted < 0.06 and abs(values.mean() - wanted) < 4 * values.std() / chains**0.5


def test_logdet_ratio_leaves_out_what_real_images_do_not_have():
    draw = torch.Generator().manual_seed(0)
    real, fake = torch.randn(200, 3, generator=draw), torch.randn(200, 3, generator=draw)
    pad = torch.full((200, 400), 7.3)
    wanted = LOGDET.of(Pair(real, fake))
    assert LOGDET.of(
        Pair(torch.cat([real, pad], 1), torch.cat([fake, torch.randn(200, 400)], 1))
    ) == pytest.approx(wanted, rel=1e-6)
    assert LOGDET.of(
        Pair(torch.cat([real, pad[:, :9]], 1), torch.cat([fake, torch.randn(200, 9)], 1))
    ) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("d", [4, 90])
def test_logdet_ratio_is_never_a_number_made_of_rounding(d):
    x = torch.randn(40, d)
    same = x[:1].repeat(40, 1) + 100
    with pytest.raises(MeasureError, match="real images are all the same"):
        LOGDET.of(Pair(same, x))
    with pytest.raises(MeasureError, match=r"-infinity: the samples are all the same in 4 of 4 principal"):
        LOGDET.of(Pair(x, same))
    with pytest.raises(MeasureError, match="logdet_ratio needs at least 10 real images, got 9"):
        LOGDET.of(Pair(x[:9], x))
    assert LOGDET.of(Pair(x[:10], x[:10])) == pytest.approx(0, abs=1e-9)  # one direction


# ------------------------------------------------------------------------------------------ between classes
BETWEEN = METRICS["between_class_ratio"]


def labelled(n, seed, apart=3.0):
    """Four classes of different sizes in five dimensions."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.tensor(
        [0] * (n // 2) + [1] * (n // 4) + [2] * (n // 8) + [3] * (n - n // 2 - n // 4 - n // 8)
    )
    centres = apart * torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    return centres[labels] + torch.randn(n, 5, generator=draw), labels


def test_between_classes_by_a_loop_and_both_parts_add_up():
    (real, y), (fake, z) = labelled(120, 1), labelled(100, 2, apart=1.0)

    def by_hand(x, labels):
        x, mean = x.double().numpy(), x.double().numpy().mean(0)
        return sum(
            (labels == c).sum().item() * ((x[(labels == c).numpy()].mean(0) - mean) ** 2).sum()
            for c in labels.unique()
        ) / len(x)

    pair = Pair(real, fake, real_labels=y, fake_labels=z)
    assert (
        BETWEEN.of(pair) == pytest.approx(by_hand(fake, z) / by_hand(real, y), rel=1e-10)
        and 0.05 < BETWEEN.of(pair) < 0.3
    )
    whole = real.double().var(0, correction=0).sum().item()
    added = BETWEEN.of(pair) * by_hand(real, y) + METRICS["within_class_ratio"].of(pair) * (
        whole - by_hand(real, y)
    )
    assert added == pytest.approx(TraceRatio.of(pair) * whole, rel=1e-10)
    r, f = torch.arange(0, 120, 2), torch.arange(1, 100, 2)
    assert BETWEEN.of(pair, r, f) == pytest.approx(
        BETWEEN.of(Pair(real[r], fake[f], real_labels=y[r], fake_labels=z[f])), rel=1e-10
    )


def test_classes_that_blend_keep_what_is_inside_them():
    (real, y), (other, z) = labelled(400, 1), labelled(400, 2)
    means = torch.stack([other[z == c].mean(0) for c in range(4)])[z]
    for keep in (1.0, 0.5, 0.0):  # of how far the classes lie apart
        pair = Pair(real, other - (1 - keep) * (means - other.mean(0)), real_labels=y, fake_labels=z)
        assert BETWEEN.of(pair) == pytest.approx(keep**2, abs=0.05) and METRICS["within_class_ratio"].of(
            pair
        ) == pytest.approx(1, abs=0.1)


def test_without_labels_or_with_classes_alike_there_is_nothing_between():
    real, y = labelled(40, 1)
    for labels in ((None, y), (y, None)):
        with pytest.raises(
            MeasureError,
            match="between_class_ratio has no value: it needs the class of every real image and of every "
            "sample",
        ):
            BETWEEN.of(Pair(real, real, real_labels=labels[0], fake_labels=labels[1]))
    with pytest.raises(
        MeasureError, match="between_class_ratio has no value: this variance of the real images is 0"
    ):
        BETWEEN.of(Pair(real, real, real_labels=torch.zeros(40).long(), fake_labels=y))
    one_each = torch.arange(40)
    with pytest.raises(
        MeasureError, match="within_class_ratio has no value: this variance of the real images is 0"
    ):
        METRICS["within_class_ratio"].of(Pair(real, real, real_labels=one_each, fake_labels=one_each))
    assert BETWEEN.of(Pair(real, real, real_labels=y, fake_labels=torch.zeros(40).long())) == 0


# ------------------------------------------------------------------------------------------ within a prompt
PROMPTS = METRICS["prompt_diversity"]


def test_prompt_diversity_is_the_ratio_of_scipy_s_pairwise_distances():
    fake, asked = torch.randn(40, 3) + 5, torch.randint(9, (40,))
    own = [
        pdist(fake[asked == c].double().numpy(), "sqeuclidean").mean()
        for c in asked.unique()
        if (asked == c).sum() > 1
    ]
    wanted = np.mean(own) / pdist(fake.double().numpy(), "sqeuclidean").mean()
    pair = Pair(torch.randn(30, 3), fake, fake_labels=asked)
    assert PROMPTS.of(pair) == pytest.approx(wanted, rel=1e-10)
    rows = torch.arange(0, 40, 2)
    assert PROMPTS.of(pair, None, rows) == PROMPTS.of(Pair(pair.real, fake[rows], fake_labels=asked[rows]))


def test_prompt_diversity_of_a_mixture():
    """Prompts move the mean by N(0, b^2), images of one differ by N(0, w^2): w^2 / (w^2 + b^2) in
    expectation, and no scale in it.
    """
    asked = torch.arange(400).repeat_interleave(5)
    values = []
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        fake = 2 * torch.randn(400, 4, generator=draw)[asked] + torch.randn(2000, 4, generator=draw)
        values.append(PROMPTS.of(Pair(fake, fake, fake_labels=asked)))
        assert PROMPTS.of(Pair(fake, 10 * fake, fake_labels=asked)) == pytest.approx(values[-1], rel=1e-6)
    assert abs(np.mean(values) - 1 / 5) < 4 * np.std(values) / 20**0.5 + 1e-4
    copies = torch.randn(400, 4)[asked]
    assert PROMPTS.of(Pair(copies, copies, fake_labels=asked)) < 1e-12
    assert PROMPTS.of(Pair(fake, fake, fake_labels=asked % 1)) == pytest.approx(1)  # one prompt for all


def test_prompt_diversity_without_two_samples_of_a_prompt_is_an_error():
    x = torch.randn(6, 2)
    for labels, match in (
        (torch.arange(6), "each of 6 samples has a prompt of its own"),
        (None, "unconditional"),
    ):
        with pytest.raises(MeasureError, match=match):
            PROMPTS.of(Pair(x, x, fake_labels=labels))
    with pytest.raises(MeasureError, match="all the same"):
        PROMPTS.of(Pair(x, torch.ones(6, 2), fake_labels=torch.zeros(6, dtype=torch.long)))
