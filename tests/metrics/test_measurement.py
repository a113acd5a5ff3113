"""Interval and standard error are two readings of the same half-samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, Pair, interval, resampled
from difflab.metrics.interval import wilson
from difflab.metrics.measurement import SHARES, Measurement, error_of_difference, take


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
    share = 200 if METRICS[name].unit in SHARES else None
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
    taken = Measurement(METRICS["recall"], value, 50, half_samples=[value] * 30)
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
    a, b = (Measurement(METRICS["recall"], 1.0, 50, half_samples=[1.0] * 30) for _ in range(2))
    assert error_of_difference(a, b) == pytest.approx(2**0.5 * 1.96 / 100, rel=1e-3)
