"""Closed forms and exact recursions of self-consuming loops of Gaussians, categories and mixtures.

Notation: n points per training set, t fits counted from 1 as in the papers (so the model of generation g is
fit g + 1), `bias` the factor on the variance of samples (config key model.sampling_bias, 1 = none), a the
share of fresh real points. Variances are relative to the variance of the true distribution.
`difflab.studies.laws` says which chain obeys which formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import gammaln, hyp2f1
from scipy.stats import binom


def c4(n: int) -> float:
    """E[sd] / sigma of n normal points: sqrt(2/(n-1)) Gamma(n/2) / Gamma((n-1)/2)."""
    return math.sqrt(2 / (n - 1)) * math.exp(gammaln(n / 2) - gammaln((n - 1) / 2))


def polya(n: int, t: int, bias: float = 1.0) -> float:
    """Expected variance after t fits of accumulate, maximum likelihood: prod_k (1 - 1/(n k^2)).

    With sampling bias it is (1 - 1/n) prod_{k>=2} (1 - (1 - bias)/k - bias/(n k^2)), which falls to 0 as
    t^-(1 - bias).
    """
    return (1 - 1 / n) * math.prod(1 - (1 - bias) / k - bias / (n * k * k) for k in range(2, t + 1))


def subsampled(n: int, t: int) -> float:
    """Expected variance after t fits of accumulate_subsample, maximum likelihood.

    Each fit is to n points drawn from all n t points so far.
    """
    m, b = 1 / n, 1 / n
    for k in range(1, t + 1):
        pool = n * k
        b = m
        if k > 1:
            b = m + (1 - m) * (pool / (pool - 1)) * (1 / n) * (1 - 1 / k)
        m += ((b - m) + (1 - b) / n) / (k + 1) ** 2
    return 1 - b


def fresh(n: int, a: float) -> float:
    """Limit of the expected variance with a share `a` of fresh real points, maximum likelihood."""
    return 1 - 1 / (n * a * (2 - a) + 1 - a)


def weighted(n: int, k: int, w: float, t: int, first: int, bias: float = 1.0) -> tuple[float, float]:
    """Expected variance and squared drift after t weighted fits, maximum likelihood.

    The first fit is to `first` real points. A later fit is to n fresh real points with the total weight w,
    and to k samples of the previous fit with the total weight 1 - w.

    Without bias the two add up to 1, and the drift tends to (w^2/n + (1-w)^2/k) / (w (2-w) + (1-w)^2/k). He,
    Xu & Cheng 2502.18049 refit only the mean, to samples of unit variance: their law is this one without the
    last term.
    """
    drift = 1 / first
    variance = 1 - drift
    for _ in range(t - 1):
        second = w + (1 - w) * (drift + bias * variance)
        drift = w * w / n + (1 - w) ** 2 * (drift + bias * variance / k)
        variance = second - drift
    return variance, drift


def stepped(n: int, t: int, step: float, bias: float = 1.0) -> tuple[float, float]:
    """Expected variance and squared drift after t fits of replace, maximum likelihood, with a step between
    fits.

    Mean and variance move by the share `step` of the way from the previous fit to the new one. A step below 1
    is an average over generations, a step below 0 is Neon with strength -step.
    """
    drift = 1 / n
    variance = 1 - drift
    for _ in range(t - 1):
        drift += step * step * bias * variance / n
        variance *= 1 + step * (bias * (1 - 1 / n) - 1)
    return variance, drift


def survivors(p: np.ndarray, n: int, t: int) -> float:
    """Expected number of categories that are left after t fits of n points, from the exact Wright-Fisher
    chain of each.

    Args:
        p: true shares of the categories.
    """
    step = binom.pmf(np.arange(n + 1)[None, :], n, np.arange(n + 1)[:, None] / n)
    lost = np.linalg.matrix_power(step, t - 1)[:, 0]
    return float(sum(1 - binom.pmf(np.arange(n + 1), n, share) @ lost for share in p))


def curated(
    first: float, n: int, t: int, keeps: Callable[[np.ndarray], np.ndarray], real: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of the share of one of two kinds after t fits of n selected points, from
    the exact chain of its count.

    The true share is `first`. In later fits `real` points are new real ones. The others are kept by a
    selector: a kept sample is of the kind with probability keeps(p), where p is the share of the kind in the
    samples. As n grows, the share of fit t + 1 tends to a first + (1 - a) keeps(share of fit t) with a = real
    / n.
    """
    counts, drawn = np.arange(n + 1), np.arange(n - real + 1)
    step = binom.pmf(drawn[None, :], n - real, keeps(counts / n)[:, None])
    fresh_real = binom.pmf(np.arange(real + 1), real, first)
    step = np.stack([np.convolve(row, fresh_real) for row in step])
    p = binom.pmf(counts, n, first) @ np.linalg.matrix_power(step, t - 1)
    mean = p @ counts / n
    return float(mean), float(np.sqrt(p @ (counts / n - mean) ** 2))


def best_of(k: int) -> Callable[[np.ndarray], np.ndarray]:
    """`keeps` of the kind with the highest reward if the best of k is kept: 1 - (1-p)^k.

    After t generations this is 1 - F^(k^t).
    """
    return lambda p: 1 - (1 - p) ** k


def luce(k: int, gain: float) -> Callable[[np.ndarray], np.ndarray]:
    """`keeps` of the kind whose reward is higher by `gain` if one of k is kept by Luce's choice.

    For large k its odds grow by e^gain.
    """
    of_kind = np.arange(k + 1)
    chosen = of_kind / (of_kind + (k - of_kind) * math.exp(-gain))
    return lambda p: binom.pmf(of_kind[None, :], k, p[:, None]) @ chosen


def cross_trained(first: float, n: int, emitted: int, shares: Any, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Diversity 1 - sum p_i^2 of each lab [M] and squared distance ||p_i - p_j||^2 of each pair of labs [M,
    M], expected after t fits.

    Labs train on each other's samples of categories with the diversity `first`. The first fit of every lab is
    to n real points of its own. In a later fit lab i trains on n shares[i][j] of the `emitted` samples of
    every lab j, drawn without replacement and independently of other labs.

    The recursion is in `pairs` [i, j], the probability that a point of lab i and another one of lab j differ.
    Two points of one training set are two different samples. Two points of two training sets that come from
    one lab are the same sample with probability 1/emitted.

    M labs on pooled samples lose the share (1 + (M-1) n / (M emitted)) / (n M) of their joint diversity per
    fit. With many samples this is M times less than a single lab loses, as in the literature, where every lab
    draws n new samples from the mixture. With emitted = n it is M^2 / (2M-1) times less, because all labs
    draw from the same few samples.
    """
    m = n * np.asarray(shares, dtype=float)
    pairs = np.full((len(m), len(m)), first)
    np.fill_diagonal(pairs, first * (1 - 1 / n))
    for _ in range(t - 1):
        within, mixed = pairs.diagonal(), m @ pairs @ m.T
        pairs = (mixed - (m * within) @ m.T / emitted) / n**2
        np.fill_diagonal(pairs, (mixed.diagonal() - m @ within) / n**2)
    within = pairs.diagonal()
    return within.copy(), 2 * pairs - within[:, None] - within[None, :]


def guided(p: np.ndarray, mean: np.ndarray, variance: np.ndarray, w: float) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances [..., C] of samples of each class with classifier-free guidance 1 + w on exact
    scores (probability-flow ODE).

    The variance of the samples is v (v/V)^w, where V is the variance of all classes together. This is neither
    v/(1 + w) nor the variance of the density tilted by guidance, whose precision is (1 + w)/v - w/V. Means
    are pushed away from the overall mean.

    Args:
        p, mean, variance: weights, means and variances of the classes [..., C].
    """
    overall = (p * mean).sum(-1, keepdims=True)
    share = variance / ((p * (variance + mean**2)).sum(-1, keepdims=True) - overall**2)
    push = w * (mean - overall) * share ** ((1 + w) / 2) * hyp2f1(0.5, (1 + w) / 2, 1.5, 1 - share)
    return mean + push, variance * share**w


def guided_loop(n: int, t: int, gap: float, w: float) -> tuple[float, float]:
    """Expected variance within two classes, and between them, after t fits of replace with n points and
    guidance 1 + w.

    In truth the classes have variance 1, means `gap` apart and equal weights. `guided` is applied in every
    generation. The chance of sampling is propagated to first order in 1/n: mean and covariance of (weight,
    two means, two variances) are carried by ten sigma points (Julier & Uhlmann 1997).
    """
    points, spread = _fitted(np.full(1, 0.5), np.array([[-gap / 2, gap / 2]]), np.ones((1, 2)), n)
    for k in range(t):
        weight, mean, variance = _sigma_points(points, spread)
        p = np.stack([weight, 1 - weight], 1)
        if k < t - 1:
            points, spread = _fitted(weight, *guided(p, mean, variance, w), n)
    within = (p * variance).sum(1).mean()
    between = (weight * (1 - weight) * (mean[:, 1] - mean[:, 0]) ** 2).mean()
    return float(within), float(between)


def _fitted(
    weight: np.ndarray, mean: np.ndarray, variance: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sampling variance [k, 5] of the parameters fitted to n points of each of k mixtures."""
    p = np.stack([weight, 1 - weight], 1)
    values = np.column_stack([weight, mean, variance * (1 - 1 / (n * p))])
    spread = np.column_stack([weight * (1 - weight) / n, variance / (n * p), 2 * variance**2 / (n * p)])
    return values, spread


def _sigma_points(values: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ten points (weight, two means, two variances) with the mean and covariance of `values` plus chance."""
    centre = values.mean(0)
    covariance = (values - centre).T @ (values - centre) / len(values) + np.diag(spread.mean(0))
    root = np.linalg.cholesky(5 * covariance)
    points = centre + np.concatenate([root.T, -root.T])
    return points[:, 0], points[:, 1:3], points[:, 3:]
