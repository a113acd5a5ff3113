"""Closed forms against independent brute force; the chain is not involved."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from difflab.studies.closed_forms import (
    best_of,
    c4,
    cross_trained,
    curated,
    fresh,
    guided,
    guided_loop,
    luce,
    polya,
    stepped,
    subsampled,
    survivors,
    weighted,
)


def loop(
    regime: str, n: int, t: int, chains: int, bias: float = 1.0, a: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and maximum-likelihood variance [chains] of fit t of a Gaussian chain, as in the papers."""
    rng = np.random.default_rng(0)
    data = rng.standard_normal((chains, n))
    pool = data
    for k in range(t):
        m, v = data.mean(1, keepdims=True), data.var(1, keepdims=True)
        if k == t - 1:
            return m[:, 0], v[:, 0]
        new = m + np.sqrt(bias * v) * rng.standard_normal((chains, n))
        if regime == "replace":
            data = new
        elif regime == "fresh":
            real = round(a * n)
            data = np.concatenate([rng.standard_normal((chains, real)), new[:, real:]], axis=1)
        else:
            pool = np.concatenate([pool, new], axis=1)
            data = pool if regime == "accumulate" else rng.permuted(pool, axis=1)[:, :n]
    raise AssertionError


def z(values: np.ndarray, wanted: float) -> float:
    return (values.mean() - wanted) / (values.std(ddof=1) / math.sqrt(len(values)))


@pytest.mark.parametrize("bias", [1.0, 0.7])
def test_polya_is_accumulate(bias):
    m, v = loop("accumulate", 6, 12, 20_000, bias)
    assert abs(z(v, polya(6, 12, bias))) < 4
    assert abs(z(v, polya(6, 12, 1.7 - bias))) > 8
    if bias == 1:
        assert abs(z(m**2, 1 - polya(6, 12))) < 4


def test_polya_tends_to_the_sine():
    assert polya(5, 200_000) == pytest.approx(
        math.sin(math.pi / math.sqrt(5)) / (math.pi / math.sqrt(5)), rel=1e-5
    )
    assert polya(10, 80_000, 0.7) / polya(10, 40_000, 0.7) == pytest.approx(2**-0.3, rel=1e-4)


def test_subsampled_is_accumulate_subsample():
    m, v = loop("subsample", 6, 12, 20_000)
    assert abs(z(v, subsampled(6, 12))) < 4
    assert abs(z(v, polya(6, 12))) > 8
    assert abs(z(m**2 + v, 1.0)) < 4  # conserved
    assert subsampled(6, 1) == pytest.approx(1 - 1 / 6)
    assert 0.67 < subsampled(8, 3000) < subsampled(8, 30) < 0.70


def test_fresh_is_the_limit_with_fresh_real_data():
    m, v = loop("fresh", 20, 40, 10_000, a=0.1)
    assert abs(z(v, fresh(20, 0.1))) < 4
    assert abs(z(m**2, 1 - fresh(20, 0.1))) < 4
    assert fresh(20, 0.0) == pytest.approx(0.0) and fresh(20, 1.0) == pytest.approx(1 - 1 / 20)


def test_replace_loses_one_part_in_n_per_fit():
    m, v = loop("replace", 10, 6, 20_000)
    assert abs(z(v, 0.9**6)) < 4 and abs(z(m**2, 1 - 0.9**6)) < 4
    assert abs(z(v, 0.9**5)) > 8
    _, v = loop("replace", 10, 6, 20_000, bias=0.8)
    assert abs(z(v, 0.8**5 * 0.9**6)) < 4


def golden(r: float) -> float:
    return (math.sqrt(r * r + 4 * r) - r) / 2


@pytest.mark.parametrize(
    ("n", "k", "w", "bias"), [(8, 8, golden(1), 1.0), (5, 12, 0.8, 1.0), (8, 4, 0.3, 0.7)]
)
def test_weighted_is_the_loop_with_weights(n, k, w, bias):
    rng = np.random.default_rng(0)
    first = rng.standard_normal((40_000, 10))
    m, v = first.mean(1), first.var(1)
    for _ in range(5):
        points = np.concatenate(
            [
                rng.standard_normal((40_000, n)),
                m[:, None] + np.sqrt(bias * v)[:, None] * rng.standard_normal((40_000, k)),
            ],
            axis=1,
        )
        share = np.r_[np.full(n, w / n), np.full(k, (1 - w) / k)]
        m = points @ share
        v = (points - m[:, None]) ** 2 @ share
    variance, drift = weighted(n, k, w, 6, 10, bias)
    assert abs(z(v, variance)) < 4 and abs(z(m**2, drift)) < 4
    assert abs(z(m**2, weighted(n, k, 1 - w, 6, 10, bias)[1])) > 8
    if bias == 1:
        assert variance + drift == pytest.approx(1)


@pytest.mark.parametrize("r", [0.25, 1, 4])
def test_weighted_tends_to_the_law_of_the_mean_where_samples_have_unit_variance(r):
    """n Var = (w^2 + r (1-w)^2) / (w (2-w)) is smallest at the golden weight (He, Xu & Cheng 2502.18049)."""
    n, k = 1_000_000, round(1_000_000 / r)
    grid = np.linspace(0.05, 0.95, 181)
    drift = np.array([n * weighted(n, k, w, 400, n)[1] for w in grid])
    assert drift == pytest.approx((grid**2 + r * (1 - grid) ** 2) / (grid * (2 - grid)), rel=1e-4)
    assert grid[drift.argmin()] == pytest.approx(golden(r), abs=0.005) and drift.min() == pytest.approx(
        golden(r), abs=1e-3
    )
    for small in (4, 8):  # few points: with the variance refitted the limit is another
        k, w = round(small / r), golden(r)
        limit = (w**2 / small + (1 - w) ** 2 / k) / (w * (2 - w) + (1 - w) ** 2 / k)
        assert weighted(small, k, w, 200, 7)[1] == pytest.approx(limit) and small * limit < 0.99 * golden(r)


@pytest.mark.parametrize(("step", "bias"), [(0.3, 1.0), (-0.5, 0.8), (1.0, 0.8)])
def test_stepped_is_the_loop_on_the_line_between_fits(step, bias):
    rng = np.random.default_rng(0)
    first = rng.standard_normal((40_000, 12))
    m, v = first.mean(1), first.var(1)
    for _ in range(5):
        data = m[:, None] + np.sqrt(bias * v)[:, None] * rng.standard_normal((40_000, 12))
        m, v = m + step * (data.mean(1) - m), v + step * (data.var(1) - v)
    variance, drift = stepped(12, 6, step, bias)
    assert (v > 0).all() and abs(z(v, variance)) < 4 and abs(z(m**2, drift)) < 4
    if step == 1:
        assert variance == pytest.approx(bias**5 * (1 - 1 / 12) ** 6)


@pytest.mark.parametrize("n", [2, 5, 30, 1000])
def test_c4_is_the_mean_of_the_chi_distribution(n):
    assert c4(n) == pytest.approx(stats.chi(n - 1).mean() / math.sqrt(n - 1), rel=1e-9)
    if n <= 30:
        density = stats.chi2(n - 1).pdf
        assert c4(n) == pytest.approx(
            integrate.quad(lambda x: math.sqrt(x / (n - 1)) * density(x), 0, np.inf)[0], rel=1e-5
        )


def test_survivors_is_wright_fisher():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    rng, counts = np.random.default_rng(0), None
    for _ in range(6):
        counts = rng.multinomial(12, np.broadcast_to(p, (20_000, 4)) if counts is None else counts / 12)
    alive = (counts > 0).sum(1)
    assert abs(z(alive, survivors(p, 12, 6))) < 4
    assert abs(z(alive, survivors(p, 12, 5))) > 8
    assert survivors(p, 12, 1) == pytest.approx(float((1 - (1 - p) ** 12).sum()))
    assert survivors(p, 12, 5000) == pytest.approx(1.0)  # one is left in the end


def curation(
    categories: int, n: int, t: int, k: int, a: float = 0.0, temperature: float = 0.0, chains: int = 3000
) -> np.ndarray:
    """Share [chains] of the best category after fit t, sample by sample.

    One of k is kept by Luce's choice; at temperature 0 the best.
    """
    rng, real = np.random.default_rng(0), round(a * n)
    data = rng.integers(0, categories, (chains, n))
    for _ in range(t - 1):
        drawn = np.take_along_axis(data, rng.integers(0, n, (chains, (n - real) * k)), 1).reshape(
            chains, n - real, k
        )
        score = drawn / temperature + rng.gumbel(size=drawn.shape) if temperature else drawn
        kept = np.take_along_axis(drawn, score.argmax(2)[..., None], 2)[..., 0]
        data = np.concatenate([rng.integers(0, categories, (chains, real)), kept], axis=1)
    return (data == categories - 1).mean(1)


@pytest.mark.parametrize(("n", "t", "k", "a"), [(30, 3, 3, 0.0), (40, 4, 2, 0.25)])
def test_curated_is_the_loop_that_keeps_the_best_of_k(n, t, k, a):
    share = curation(8, n, t, k, a)
    mean, spread = curated(1 / 8, n, t, best_of(k), round(a * n))
    assert abs(z(share, mean)) < 4
    assert abs(share.std() / spread - 1) < 4 * math.sqrt(1 / len(share))
    assert abs(z(share, curated(1 / 8, n, t, best_of(k + 1), round(a * n))[0])) > 8
    assert abs(z(share, curated(1 / 8, n, t, best_of(k), 0 if a else 5)[0])) > 8


def test_luce_is_the_choice_among_k():
    share = curation(2, 30, 3, 5, temperature=0.5)
    assert abs(z(share, curated(0.5, 30, 3, luce(5, 2.0))[0])) < 4
    assert abs(z(share, curated(0.5, 30, 3, luce(5, 1.0))[0])) > 8
    assert luce(2, 1.0)(np.array([0.5]))[0] == pytest.approx(
        0.25 + 0.5 / (1 + math.exp(-1))
    )  # Bradley and Terry
    assert luce(7, 0.0)(np.array([0.3]))[0] == pytest.approx(0.3) and luce(4, 50.0)(np.array([0.3]))[
        0
    ] == pytest.approx(best_of(4)(0.3))


def test_curation_tends_to_what_the_papers_say_of_populations():
    p = 0.1
    for t in range(1, 4):
        assert curated(p, 400, t, best_of(2))[0] == pytest.approx(1 - (1 - p) ** 2 ** (t - 1), abs=5e-3)
        odds = math.exp(t - 1) * p / (1 - p)
        assert curated(p, 400, t, luce(400, 1.0))[0] == pytest.approx(odds / (1 + odds), abs=5e-3)
    for a, atom in ((0.3, 0.4 / 0.7), (0.6, 0.0)):  # best of 2: (1-2a)/(1-a) below a = 1/2, nothing above
        limit = curated(0.005, 500, 60, best_of(2), round(500 * a))[0]
        solved = 1 - (1 - math.sqrt(1 - 4 * (1 - a) * a * 0.995)) / (2 * (1 - a))
        assert limit == pytest.approx(solved, abs=5e-3) and limit == pytest.approx(atom, abs=0.02)


@pytest.mark.parametrize("w", [-0.5, 0.25, 1.0, 2.0, 3.5])
def test_guided_is_the_integral_over_noise_levels(w):
    """Written as an integral over t, with the unconditional mean at 0."""
    s2, mu = 0.25, 1.0
    total = s2 + mu**2
    mean, variance = guided(np.full(2, 0.5), np.array([-mu, mu]), np.full(2, s2), w)
    inside = integrate.quad(
        lambda t: t * (s2 + t * t) ** (-(3 + w) / 2) * (total + t * t) ** (w / 2), 0, np.inf
    )[0]
    assert mean == pytest.approx(
        np.array([-1, 1]) * (1 + w) * mu * s2 ** ((1 + w) / 2) * total ** (-w / 2) * inside, rel=1e-6
    )
    assert variance == pytest.approx(s2 * (s2 / total) ** w)
    if w == 2:
        assert mean[1] == pytest.approx(1.4)


def test_guided_loop_without_sampling_error_is_guided_over_and_over():
    """From mean 1 and variance 1/4: .167, .098, .049, .020, .0064 at w = 1/4; constant without guidance."""
    loop = [guided_loop(10**9, t, 4.0, 0.25) for t in range(2, 7)]
    assert [within / 4 for within, _ in loop] == pytest.approx([0.167, 0.098, 0.049, 0.020, 0.0064], abs=5e-4)
    assert [math.sqrt(between / 4) for _, between in loop] == pytest.approx(
        [1.120, 1.224, 1.304, 1.360, 1.393], abs=5e-4
    )
    assert [guided_loop(10**9, t, 4.0, 1.5)[0] / 4 for t in (2, 3)] == pytest.approx(
        [0.0224, 2.8e-5], rel=5e-3
    )
    assert guided_loop(10**9, 6, 4.0, 0.0) == pytest.approx((1, 4), rel=1e-6)


@pytest.mark.parametrize(("n", "t", "w"), [(400, 2, 2.0), (400, 4, 0.25), (400, 3, 1.5)])
def test_guided_loop_is_the_loop_of_fits(n, t, w):
    """From the exact distribution of what a fit reads: counts, means, variances."""
    rng, chains = np.random.default_rng(0), 4000
    p, mean, variance = np.full((chains, 2), 0.5), np.tile([-2.0, 2.0], (chains, 1)), np.ones((chains, 2))
    for k in range(t):
        if k:
            mean, variance = guided(p, mean, variance, w)
        first = rng.binomial(n, p[:, 0])
        counts = np.stack([first, n - first], 1)
        mean = mean + np.sqrt(variance / counts) * rng.standard_normal((chains, 2))
        p, variance = counts / n, variance * rng.chisquare(counts - 1) / counts
    within, between = (p * variance).sum(1), p[:, 0] * p[:, 1] * (mean[:, 1] - mean[:, 0]) ** 2
    wanted = guided_loop(n, t, 4.0, w)
    assert abs(z(within, wanted[0])) < 4 and abs(z(between, wanted[1])) < 4
    assert abs(z(within, guided_loop(10**9, t, 4.0, w)[0])) > 3  # chains of infinite sets are another matter


def labs(
    n: int, emitted: int, shares: list[list[float]], t: int, chains: int, categories: int = 6
) -> np.ndarray:
    """Frequencies [labs, chains, categories] after fit t, sample by sample.

    Every lab draws from the samples of each lab independently.
    """
    rng = np.random.default_rng(0)
    data = [rng.integers(0, categories, (chains, n)) for _ in shares]
    for _ in range(t - 1):
        out = [np.take_along_axis(own, rng.integers(0, n, (chains, emitted)), 1) for own in data]
        data = [
            np.concatenate(
                [rng.permuted(x, axis=1)[:, : round(n * w)] for x, w in zip(out, row, strict=True)], axis=1
            )
            for row in shares
        ]
    return np.stack([(own[:, :, None] == np.arange(categories)).mean(1) for own in data])


@pytest.mark.parametrize(
    ("n", "emitted", "shares"),
    [
        (12, 12, [[1 / 3] * 3] * 3),
        (10, 25, [[0.5, 0.5], [0.5, 0.5]]),
        (10, 12, [[0.6, 0.4], [0.1, 0.9]]),
        (8, 16, [[1, 0], [1, 0]]),
        (10, 10, [[1, 0], [0, 1]]),
    ],
    ids=str,
)
def test_cross_trained_is_the_loop_of_labs(n, emitted, shares):
    p = labs(n, emitted, shares, 5, 20_000)
    within, distance = cross_trained(5 / 6, n, emitted, shares, 5)
    for i, j in itertools.combinations(range(len(p)), 2):
        assert abs(z(((p[i] - p[j]) ** 2).sum(1), distance[i, j])) < 4
        assert distance[i, j] == pytest.approx(distance[j, i])
    for own, wanted in zip(p, within, strict=True):
        assert abs(z(1 - (own**2).sum(1), wanted)) < 4
        assert abs(z(1 - (own**2).sum(1), cross_trained(5 / 6, n, emitted, shares, 4)[0].mean())) > 8


def test_cross_trained_tends_to_the_laws_of_the_literature():
    n, m, t, h = 60, 4, 12, 0.8
    own, apart = cross_trained(h, n, n, np.eye(m), t)
    assert own == pytest.approx(h * (1 - 1 / n) ** t) and apart[0, 1] == pytest.approx(
        2 * h * (1 - (1 - 1 / n) ** t)
    )
    # n new draws from the mixture are what a lab gets when the others emit very many samples.
    own, apart = cross_trained(h, n, 10**6, np.full((m, m), 1 / m), t)
    assert own == pytest.approx(h * (1 - 1 / n) * (1 - 1 / (n * m)) ** (t - 1), rel=2e-3)
    assert apart[0, 1] == pytest.approx(2 * h * (1 - 1 / (n * m)) ** (t - 1) / n, rel=2e-2)
    # With as many as they train on the loss is m^2 / (2m - 1) times slower than alone, not m times.
    whole = [cross_trained(h, 1000, 1000, np.full((m, m), 1 / m), t)[0][0] for t in (50, 51)]
    assert 1 - whole[1] / whole[0] == pytest.approx((2 * m - 1) / m**2 / 1000, rel=1e-2)
