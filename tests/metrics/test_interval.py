"""How often the intervals hold the truth: a small, deterministic version of the simulation in interval.py's
docstring.
"""

import math

import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, Pair, PairMetric, half_rows, interval, resampled
from difflab.metrics.interval import normal_interval, wilson


class Share(PairMetric):
    """Share of ones among the samples: a mean, whose variance is known."""

    name, unit, range, better = "share", "share", (0.0, 1.0), "real"

    @classmethod
    def evaluate(cls, pair, real, fake):
        return float(pair.fake[fake].double().mean())


@pytest.fixture(autouse=True)
def one_thread():
    """Thousands of tiny matrices: threads would spend the time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_half_rows_is_a_pure_function_without_duplicates():
    real, fake = half_rows(101, 60, 3, 7)
    assert len(real.unique()) == len(real) == 50 and len(fake.unique()) == len(fake) == 30
    assert int(real.max()) < 101 and torch.equal(real, real.sort().values)
    torch.rand(3)
    again = half_rows(101, 60, 3, 7)
    assert torch.equal(real, again[0]) and torch.equal(fake, again[1])
    assert not torch.equal(real, half_rows(101, 60, 4, 7)[0]) and not torch.equal(
        real, half_rows(101, 60, 3, 8)[0]
    )
    assert half_rows(8, 8, 0, 2**63 - 1)[0].tolist() != half_rows(8, 8, 0, 2**63 - 1)[1].tolist()


@pytest.mark.parametrize("name", ["fd", "kid", "recall", "coverage", "trace_ratio"])
def test_resamples_may_be_shared_out(name):
    pair = Pair(torch.randn(60, 3), torch.randn(50, 3))
    whole = resampled(METRICS[name], pair, range(8), 5)
    assert whole == [
        value
        for part in (range(0, 3), range(3, 8))
        for value in resampled(METRICS[name], Pair(pair.real, pair.fake), part, 5)
    ]


def test_half_sample_variance_of_a_mean_is_that_of_the_mean():
    x = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    values = torch.tensor(resampled(Share, Pair(x, x), range(2000), 0))
    assert values.var().item() == pytest.approx(x.var().item() / 400, rel=0.15)


# Least coverage: four binomial standard deviations below .95 at 80 data sets. Half-samples overstate the
# spread of quadratic statistics where both sides are equal, so there the interval is only asked not to be too
# short.
CASES = {
    "share": (
        Share,
        lambda g: (torch.zeros(80, 1), (torch.rand(80, 1, generator=g) < 0.2).float()),
        0.85,
        1.0,
    ),
    "trace_ratio": (
        METRICS["trace_ratio"],
        lambda g: (torch.randn(80, 8, generator=g), torch.randn(80, 8, generator=g) * 0.9),
        0.85,
        1.0,
    ),
    "fd apart": (
        METRICS["fd"],
        lambda g: (torch.randn(80, 8, generator=g), torch.randn(80, 8, generator=g) * 0.8 + 0.5),
        0.85,
        1.0,
    ),
    "fd equal": (
        METRICS["fd"],
        lambda g: (torch.randn(80, 8, generator=g), torch.randn(80, 8, generator=g)),
        0.95,
        1.0,
    ),
    "recall": (
        METRICS["recall"],
        lambda g: (torch.randn(80, 8, generator=g), torch.randn(80, 8, generator=g) * 0.8),
        0.85,
        1.0,
    ),
    "precision": (
        METRICS["precision"],
        lambda g: (torch.randn(80, 8, generator=g), torch.randn(80, 8, generator=g)),
        0.85,
        1.0,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_intervals_hold_the_expectation_about_as_often_as_they_say(case):
    metric, draw, least, most = CASES[case]
    values, bounds = [], []
    cheap = case in ("share", "trace_ratio")
    for chain in range(100 if cheap else 80):
        pair = Pair(*draw(torch.Generator().manual_seed(chain)))
        values.append(metric.of(pair))
        bounds.append(
            interval(values[-1], resampled(metric, pair, range(100 if cheap else 40), chain), metric.range)
        )
    truth = sum(values) / len(values)
    assert least <= sum(low <= truth <= high for low, high in bounds) / len(bounds) <= most


def test_interval_is_centred_clipped_and_never_guessed():
    shifted = [10 + 0.01 * (i - 50) for i in range(101)]
    assert interval(0.3, shifted) == pytest.approx((0.3 - 0.475, 0.3 + 0.475))
    assert interval(0.3, shifted, (0.0, 1.0)) == pytest.approx((0.0, 0.775))
    for values, match in ((shifted[:19], "at least 20"), ([math.nan] * 30, "finite")):
        with pytest.raises(MeasureError, match=match):
            interval(0.3, values)


def test_too_few_images_for_half_of_them():
    with pytest.raises(MeasureError, match="recall needs at least 6 real images, got 5"):
        resampled(METRICS["recall"], Pair(torch.randn(10, 2), torch.randn(10, 2)), range(1), 0)


def test_a_share_at_its_bound_has_wilsons_interval_and_no_point():
    from scipy.stats import binomtest

    for k in (0, 3, 250, 500):
        wanted = binomtest(k, 500).proportion_ci(method="wilson")
        assert wilson(k / 500, 500) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    low, high = interval(1.0, [1.0] * 50, (0.0, 1.0), share_of=500)
    assert high == 1.0 and low == pytest.approx(0.99238, abs=1e-5)
    assert interval(1.0, [1.0] * 50, (0.0, 1.0)) == (1.0, 1.0)


def test_a_share_with_a_known_error_has_wilsons_interval_of_as_many_independent_images():
    from scipy.stats import binomtest

    wanted = binomtest(10, 100).proportion_ci(method="wilson")
    assert normal_interval(0.1, 0.03, (0.0, 1.0), 500) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    # An error below that of independent images, or none at all, is not believed.
    for error in (0.0, 0.001):
        assert normal_interval(0.1, error, (0.0, 1.0), 100) == pytest.approx(
            (wanted.low, wanted.high), abs=1e-6
        )
    assert normal_interval(1.0, 0.0, (0.0, 1.0), 7)[1] == 1.0
