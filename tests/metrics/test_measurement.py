"""Interval and standard error are two readings of the same half-samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, Judge, Pair, interval, resampled
from difflab.metrics.interval import wilson
from difflab.metrics.measurement import Measurement, error_of_difference, take


@pytest.fixture(scope="module")
def pair() -> Pair:
    generator = torch.Generator().manual_seed(0)
    return Pair(torch.randn(200, 3, generator=generator), 0.7 * torch.randn(200, 3, generator=generator))


def halves(metric, pair):
    return resampled(metric, pair, range(40), 3)


@pytest.mark.parametrize("name", ["recall", "coverage", "spacing_ratio"])
def test_value_half_samples_and_interval_are_those_of_the_measure(pair, name):
    taken, drawn = take(METRICS[name], pair, halves), halves(METRICS[name], pair)
    assert taken.value == METRICS[name].of(pair) and list(taken.half_samples) == drawn and taken.n == 200
    share = METRICS[name].counted(pair)
    assert taken.interval == interval(taken.value, sorted(drawn), METRICS[name].range, share)
    assert taken.error >= float(np.std(drawn, ddof=1))


def test_the_error_is_a_quarter_of_the_interval_where_half_samples_are_normal():
    normal = np.random.default_rng(0).normal(0.5, 0.05, 4000).tolist()
    taken = Measurement(METRICS["trace_ratio"], 0.5, 100, half_samples=normal)
    low, high = taken.interval
    assert taken.error == pytest.approx(0.05, rel=0.03) and high - low == pytest.approx(
        3.92 * taken.error, rel=0.05
    )


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_at_its_bound_has_the_error_of_wilsons_interval(value):
    taken = Measurement(METRICS["recall"], value, 50, half_samples=[value] * 30, counted=50)
    low, high = wilson(value, 50)
    assert taken.error == pytest.approx((high - low) / 3.92) and taken.error > 0
    assert taken.interval == pytest.approx((low, high))
    assert Measurement(METRICS["trace_ratio"], value, 50, half_samples=[value] * 30).error == 0


def test_without_half_samples_there_is_no_interval_and_with_few_it_is_refused(pair):
    assert take(METRICS["recall"], pair, lambda metric, pair: []).interval is None
    few = take(METRICS["recall"], pair, lambda metric, pair: halves(metric, pair)[:5])
    assert few.error > 0
    with pytest.raises(MeasureError, match="at least 20 resamples"):
        few.interval  # noqa: B018


def test_a_measure_without_a_value_says_why():
    with pytest.raises(MeasureError, match="at least"):
        take(METRICS["recall"], Pair(torch.zeros(3, 2), torch.zeros(3, 2)), halves)


@pytest.mark.parametrize("name", ["fd", "kid", "cmmd", "trace_ratio", "vendi"])
def test_a_smooth_measure_takes_its_error_from_influences_and_needs_no_half_samples(pair, name):
    def refused(metric, pair):
        raise AssertionError("half-samples of a measure with influences")

    taken = take(METRICS[name], pair, refused)
    assert taken.error == taken.influence.error > 0
    low, high = taken.interval
    assert low < taken.value < high and high - low == pytest.approx(3.92 * taken.error, rel=1e-3)
    assert take(METRICS[name], pair, None).interval is None


def drawn(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["fd", "kid", "trace_ratio", "recall", "coverage"])
def test_the_error_of_a_difference_is_its_spread_over_draws_where_both_share_the_real_images(name):
    """120 draws: the spread is known to 6%, the errors of half-samples to 10%."""
    differences, paired, apart = [], [], []
    for k in range(120):
        real, one, other = (drawn(80, 3 * k + i) for i in range(3))
        a, b = (take(METRICS[name], Pair(real, side), halves) for side in (one, other))
        differences.append(a.value - b.value)
        paired.append(error_of_difference(a, b))
        apart.append(np.hypot(a.error, b.error))
    spread = np.std(differences, ddof=1)
    assert 0.8 < np.mean(paired) / spread < 1.35
    assert np.mean(paired) < np.mean(apart)


def test_two_shares_that_are_both_one_differ_by_no_less_than_an_image_or_two():
    a, b = (Measurement(METRICS["recall"], 1.0, 50, half_samples=[1.0] * 30, counted=50) for _ in range(2))
    assert error_of_difference(a, b) == pytest.approx(2**0.5 * 1.96 / 100, rel=1e-3)


SETTINGS = {"equal": (1.0, 0.0), "apart": (0.8, 0.5), "narrow": (0.7, 0.0)}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("ct", 100),
        ("generalisation_score", 100),
        ("auth_pct", 100),
        ("density", 100),
        ("tail_recall", 200),
        ("near_duplicates", 200),
        ("repeats", 200),
        ("logdet_ratio", 120),
    ],
)
def test_the_interval_holds_the_mean_and_the_error_is_the_spread_over_draws(name, n, setting):
    """100 draws: the spread is known to 7%, a coverage of .95 to .022.

    A tail of which no image is expected to be covered has the error of Wilson's interval, which is wider. At
    n = 200 the threshold of `repeats` is one distance, the smallest of a hundred.
    """
    width, shift = SETTINGS[setting]
    train = drawn_in(8, 150, 10**6)
    values, errors, bounds = [], [], []
    for k in range(100):
        pair = Pair(drawn_in(8, n, 2 * k), width * drawn_in(8, n, 2 * k + 1) + shift, train=train)
        taken = take(METRICS[name], pair, halves)
        values.append(taken.value)
        errors.append(taken.error)
        bounds.append(taken.interval)
    mean, (low, high) = np.mean(values), np.array(bounds).T
    assert np.mean((low <= mean) & (mean <= high)) >= (0.78 if name == "repeats" else 0.87)
    most = 2.0 if name == "tail_recall" and mean < 0.05 else 1.5
    assert 0.75 < np.mean(errors) / np.std(values, ddof=1) < most


def drawn_in(d: int, n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shares", [[0.25] * 4, [0.1] * 10, [0.7, 0.2, 0.1], [0.97, 0.01, 0.01, 0.01]])
def test_the_interval_of_class_entropy_holds_its_mean_also_at_the_maximum(shares):
    classes, n = len(shares), 150
    judge = Judge.fit(torch.eye(classes).repeat(2, 1), torch.arange(classes).repeat(2), classes)
    draw, values, bounds = np.random.default_rng(0), [], []
    for _ in range(300):
        shown = torch.from_numpy(draw.choice(classes, n, p=shares))
        taken = take(
            METRICS["class_entropy"], Pair(torch.eye(classes), torch.eye(classes)[shown], judge=judge), halves
        )
        values.append(taken.value)
        bounds.append(taken.interval)
    mean, (low, high) = np.mean(values), np.array(bounds).T
    assert 0.91 <= np.mean((low <= mean) & (mean <= high)) <= 0.985


@pytest.mark.parametrize("count", [1, 3, 50])
def test_the_interval_of_class_entropy_holds_the_value_of_equal_classes(count):
    """Images of quotas, of which the judge recognises all, are at the maximum."""
    judge = Judge.fit(torch.eye(12).repeat(2, 1), torch.arange(12).repeat(2), 12)
    pair = Pair(torch.eye(12), torch.eye(12).repeat(count, 1), judge=judge)
    low, high = take(METRICS["class_entropy"], pair, halves).interval
    assert low < np.log(12) and high == pytest.approx(np.log(12))


@pytest.mark.parametrize("ratio", [0.3, 1.0, 1.6])
def test_the_error_of_rare_class_survival_knows_the_cut_at_one(ratio):
    """The rare class has a tenth of the real images and `ratio` times as many of the samples."""
    judge = Judge.fit(torch.eye(4).repeat(2, 1), torch.arange(4).repeat(2), 4)
    draw, values, errors = np.random.default_rng(0), [], []
    for _ in range(300):
        real, fake = (
            torch.from_numpy(draw.choice(4, 300, p=[s, *[(1 - s) / 3] * 3])) for s in (0.1, 0.1 * ratio)
        )
        pair = Pair(torch.eye(4)[real], torch.eye(4)[fake], real_labels=real, judge=judge)
        taken = take(METRICS["rare_class_survival"], pair, halves)
        values.append(taken.value)
        errors.append(taken.error)
    spread, uncut = np.std(values, ddof=1), ratio * (1 / 30 + 1 / (30 * ratio)) ** 0.5
    if ratio <= 1:
        assert 0.85 < np.mean(errors) / spread < 1.3
    else:  # whether the ratio is above 1 is not known for certain from one draw
        assert spread < np.mean(errors) < 0.4 * uncut
