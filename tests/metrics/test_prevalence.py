"""Intervals of the share: independent implementations, exact cases, coverage by simulation, wrong counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from difflab.core.errors import MeasureError
from difflab.metrics.interval import wilson
from difflab.metrics.prevalence import (
    Calibration,
    Labelled,
    lang_reiczigel,
    least_share,
    post_stratified,
    prediction_powered,
    share_at_rates,
    share_in_set,
    tells,
)

GOOD = Calibration(180, 200, 196, 200)


def test_lang_reiczigel_has_the_published_formula() -> None:
    """Written out as in the paper, with names of the paper."""
    n, x, nse, tp, nsp, tn, z = 1000, 140, 200, 180, 150, 140, stats.norm.ppf(0.975)
    se, sp = (tp + 1) / (nse + 2), (tn + 1) / (nsp + 2)
    ap = (x + z**2 / 2) / (n + z**2)
    p = (ap + sp - 1) / (se + sp - 1)
    dp = 2 * z**2 * (p * se * (1 - se) / nse - (1 - p) * sp * (1 - sp) / nsp)
    spread = ap * (1 - ap) / (n + z**2) + p**2 * se * (1 - se) / nse + (1 - p) ** 2 * sp * (1 - sp) / nsp
    half = z * math.sqrt(spread) / (se + sp - 1)
    found = lang_reiczigel(x, n, Calibration(tp, nse, tn, nsp))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((p + dp - half, p + dp + half), abs=1e-6)


@pytest.mark.parametrize("flagged", [300, 900, 2500])
def test_the_score_interval_ends_where_the_test_is_at_its_level(flagged: int) -> None:
    """Bounds found by a root finder on the test statistic, not by the quadratic equation."""
    n, se, f = 3000, 181 / 202, 5 / 202

    def statistic(share: float) -> float:
        variance = (share * se * (1 - se) + (1 - share) * f * (1 - f)) / n
        variance += share**2 * se * (1 - se) / 202 + (1 - share) ** 2 * f * (1 - f) / 202
        return (flagged / n - share * se - (1 - share) * f) / math.sqrt(variance)

    z = stats.norm.ppf(0.975)
    found = share_in_set(flagged, n, GOOD)
    assert found is not None
    low, high = (optimize.brentq(lambda s, b=bound: statistic(s) - b, -1, 2) for bound in (z, -z))
    assert (found.low, found.high) == pytest.approx((low, min(1, high)), abs=1e-6)
    assert found.low <= found.estimate <= found.high


def test_a_detector_without_errors_gives_nearly_the_share_of_flags() -> None:
    found = share_in_set(300, 1000, Calibration(10**6, 10**6, 10**6, 10**6))
    assert found is not None
    assert found.estimate == pytest.approx(0.3) and found.high - found.low < 2e-4


def test_rogan_gladen_inverts_the_share_of_flags() -> None:
    assert share_at_rates(round(10_000 * (0.3 * 0.9 + 0.7 * 0.05)), 10_000, 0.9, 0.95) == pytest.approx(0.3)
    assert share_at_rates(1, 1000, 0.9, 0.9) == 0  # fewer flags than false ones
    with pytest.raises(MeasureError, match="says nothing"):
        share_at_rates(1, 10, 0.5, 0.5)


def test_a_weak_detector_cannot_tell() -> None:
    weak = Calibration(59, 100, 60, 100)
    assert not tells(weak) and tells(Calibration(60, 100, 60, 100))
    assert share_in_set(50, 100, weak) is None and lang_reiczigel(50, 100, weak) is None


def test_rates_from_a_handful_of_images_bound_nothing() -> None:
    found = share_in_set(50, 100, Calibration(2, 2, 2, 3))
    assert found is not None and (found.low, found.high) == (0, 1)


def test_the_least_share_holds_when_the_generator_is_not_seen() -> None:
    """Half of the synthetic images come from a generator that is flagged no more often than real images."""
    draw, held, interval_held, runs = np.random.default_rng(3), 0, 0, 400
    for _ in range(runs):
        real, seen, unseen = 700, 150, 150
        flagged = draw.binomial(seen, 0.9) + draw.binomial(real + unseen, 0.03)
        calibration = Calibration(draw.binomial(200, 0.9), 200, draw.binomial(200, 0.97), 200)
        held += least_share(int(flagged), 1000, calibration) <= 0.3
        found = share_in_set(int(flagged), 1000, calibration)
        interval_held += found is not None and found.low <= 0.3 <= found.high
    assert held == runs
    assert interval_held < 0.05 * runs  # the assumption of the interval is broken, and it shows


def test_prediction_powered_agrees_with_the_formula_on_vectors() -> None:
    labels = np.repeat([1, 0, 1, 0], [27, 2, 3, 168]).astype(float)
    flags = np.repeat([1, 1, 0, 0], [27, 2, 3, 168]).astype(float)
    all_flags = np.repeat([1, 0], [1400, 8600]).astype(float)
    rectified = labels - flags
    estimate = all_flags.mean() + rectified.mean()
    error = math.sqrt(all_flags.var() / 10_000 + rectified.var(ddof=1) / 200)
    low, high = stats.t.interval(0.95, 199, estimate, error)
    found = prediction_powered(1400, 10_000, Labelled(27, 29, 3, 171))
    assert (found.estimate, found.low, found.high) == pytest.approx((estimate, low, high))


def test_prediction_powered_agrees_with_ppi_python() -> None:
    """ppi_mean_ci(labels, flags, other_flags, alpha=0.05, lam=1) of ppi-python 0.2.3: a normal quantile, and flags of
    unlabelled images only."""
    found = prediction_powered(1371, 9800, Labelled(27, 29, 3, 171))
    shorter = stats.norm.ppf(0.975) / stats.t.ppf(0.975, 199)
    half = (found.high - found.low) / 2 * shorter
    assert (found.estimate, found.estimate - half, found.estimate + half) == pytest.approx(
        (0.14489796, 0.12194434, 0.16785157), abs=7e-5
    )


def test_post_stratified_is_wilson_without_a_detector_and_exact_with_all_labels() -> None:
    found = post_stratified(0, 10**9, Labelled(0, 0, 30, 200))
    assert (found.low, found.high) == pytest.approx(wilson(0.15, 200), abs=1e-6)
    found = post_stratified(40, 100, Labelled(30, 40, 5, 60))
    assert found.low == found.high == pytest.approx(0.35)


def test_a_stratum_without_labels_is_unknown() -> None:
    found = post_stratified(100, 1000, Labelled(0, 0, 0, 900))
    assert found.low == pytest.approx(0) and found.high == pytest.approx(0.1)


@pytest.mark.parametrize(("share", "accuracy"), [(0.0, 0.9), (0.05, 0.7), (0.2, 0.95), (0.9, 0.9)])
def test_intervals_hold_the_share_in_92_to_98_percent(share: float, accuracy: float) -> None:
    """800 draws; a binomial share of 800 around .95 has a standard error of .008."""
    draw, n, synthetic, runs = np.random.default_rng(7), 2000, round(2000 * share), 800
    hits = {"score": 0, "lang": 0, "labels": 0}
    for _ in range(runs):
        true = int(draw.binomial(synthetic, accuracy))
        false = int(draw.binomial(n - synthetic, 1 - accuracy))
        rates = Calibration(
            *(int(v) for v in (draw.binomial(200, accuracy), 200, draw.binomial(200, accuracy), 200))
        )
        score, lang = share_in_set(true + false, n, rates), lang_reiczigel(true + false, n, rates)
        cells = draw.multivariate_hypergeometric([true, false, synthetic - true, n - synthetic - false], 200)
        by_label = post_stratified(
            true + false,
            n,
            Labelled(int(cells[0]), int(cells[:2].sum()), int(cells[2]), int(cells[2:].sum())),
        )
        assert score is not None and lang is not None
        for name, found in (("score", score), ("lang", lang), ("labels", by_label)):
            hits[name] += found.low - 1e-9 <= share <= found.high + 1e-9
    assert 0.92 <= hits["score"] / runs <= 0.985
    assert hits["lang"] / runs >= 0.92  # it is wider: about the population
    assert hits["labels"] / runs >= 0.92


def test_prediction_powered_fails_with_a_good_detector_and_few_labels() -> None:
    """The reason why the audit does not use it."""
    draw, hits, better = np.random.default_rng(5), 0, 0
    for _ in range(300):
        true, false = int(draw.binomial(500, 0.99)), int(draw.binomial(9500, 0.01))
        c = [int(v) for v in draw.multivariate_hypergeometric([true, false, 500 - true, 9500 - false], 50)]
        labelled = Labelled(c[0], c[0] + c[1], c[2], c[2] + c[3])
        for method in (prediction_powered, post_stratified):
            found = method(true + false, 10_000, labelled)
            held = found.low <= 0.05 <= found.high
            hits += held and method is prediction_powered
            better += held and method is post_stratified
    assert hits < 0.6 * 300 < 0.92 * 300 <= better


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Calibration(3, 2, 1, 1), "counts a part"),
        (lambda: Calibration(0, 0, 1, 1), "at least 1 synthetic"),
        (lambda: Labelled(2, 1, 0, 0), "count a part"),
        (lambda: share_in_set(5, 4, GOOD), "flagged <= n"),
        (lambda: lang_reiczigel(0, 0, GOOD), "n >= 1"),
        (lambda: least_share(-1, 4, GOOD), "flagged <= n"),
        (lambda: post_stratified(1, 10, Labelled(0, 0, 0, 0)), "there is none"),
        (lambda: post_stratified(1, 10, Labelled(1, 2, 0, 1)), "label an image once"),
        (lambda: prediction_powered(1, 10, Labelled(0, 0, 0, 1)), "at least 2 labels"),
    ],
)
def test_wrong_counts_are_refused(call: object, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        call()  # type: ignore[operator]
