"""Closed forms and exact recursions of self-consuming loops of Gaussians, categories and mixtures.

Notation: n points per training set, t fits counted from 1 as in the papers (so the model of generation g is fit g + 1),
`bias` the factor on the variance of samples (config key model.sampling_bias, 1 = none), a the share of fresh real points.
Variances are relative to the variance of the true distribution. `difflab.studies.laws` says which chain obeys which formula.
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
    """E var after t fits of accumulate with n points each, maximum likelihood: prod (1 - 1/(n k^2)); with sampling bias
    (1 - 1/n) prod_{k>=2} (1 - (1 - bias)/k - bias/(n k^2)), which falls to 0 as t^-(1 - bias)."""
    return (1 - 1 / n) * math.prod(1 - (1 - bias) / k - bias / (n * k * k) for k in range(2, t + 1))


def subsampled(n: int, t: int) -> float:
    """E var after t fits of n points drawn from all n t so far (accumulate_subsample), maximum likelihood."""
    m, b = 1 / n, 1 / n
    for k in range(1, t + 1):
        pool = n * k
        b = m + (1 - m) * (pool / (pool - 1) if pool > 1 else 0) * (1 / n) * (1 - 1 / k) if k > 1 else m
        m += ((b - m) + (1 - b) / n) / (k + 1) ** 2
    return 1 - b


def fresh(n: int, a: float) -> float:
    """Limit of E var (relative to the truth's) with a share a of fresh real data, maximum likelihood."""
    return 1 - 1 / (n * a * (2 - a) + 1 - a)


def weighted(n: int, k: int, w: float, t: int, first: int, bias: float = 1.0) -> tuple[float, float]:
    """E var and E squared drift after t fits, the first to `first` real points, later ones to n fresh real points that together have
    the weight w and k samples of the fit before that have 1 - w, maximum likelihood.

    Without bias the two add up to 1, and the drift tends to (w^2/n + (1-w)^2/k) / (w (2-w) + (1-w)^2/k). He, Xu & Cheng 2502.18049
    refit the mean alone, to samples of unit variance: their law is this one without the last term.
    """
    drift = 1 / first
    variance = 1 - drift
    for _ in range(t - 1):
        second = w + (1 - w) * (drift + bias * variance)
        drift = w * w / n + (1 - w) ** 2 * (drift + bias * variance / k)
        variance = second - drift
    return variance, drift


def stepped(n: int, t: int, step: float, bias: float = 1.0) -> tuple[float, float]:
    """E var and E squared drift after t fits of replace with n points, maximum likelihood, where mean and variance go only the share
    `step` of the way from the fit before to the new one: below 1 an average over generations, below 0 Neon with strength -step."""
    drift = 1 / n
    variance = 1 - drift
    for _ in range(t - 1):
        drift += step * step * bias * variance / n
        variance *= 1 + step * (bias * (1 - 1 / n) - 1)
    return variance, drift


def survivors(p: np.ndarray, n: int, t: int) -> float:
    """Expected categories left after t fits of n points: the Wright-Fisher chain of each category, exactly."""
    step = binom.pmf(np.arange(n + 1)[None, :], n, np.arange(n + 1)[:, None] / n)
    lost = np.linalg.matrix_power(step, t - 1)[:, 0]
    return float(sum(1 - binom.pmf(np.arange(n + 1), n, share) @ lost for share in p))


def curated(
    first: float, n: int, t: int, keeps: Callable[[np.ndarray], np.ndarray], real: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of the share of one of two kinds, `first` in truth, after t fits of n points each: the chain of its count, exactly.

    Of later points `real` are new real ones; the others were kept from samples in which the kind had the share p, so that each is of the kind
    with probability keeps(p). As n grows the share of fit t + 1 is a first + (1 - a) keeps(share of fit t), a = real / n.
    """
    counts, drawn = np.arange(n + 1), np.arange(n - real + 1)
    step = binom.pmf(drawn[None, :], n - real, keeps(counts / n)[:, None])
    fresh_real = binom.pmf(np.arange(real + 1), real, first)
    step = np.stack([np.convolve(row, fresh_real) for row in step])
    p = binom.pmf(counts, n, first) @ np.linalg.matrix_power(step, t - 1)
    mean = p @ counts / n
    return float(mean), float(np.sqrt(p @ (counts / n - mean) ** 2))


def best_of(k: int) -> Callable[[np.ndarray], np.ndarray]:
    """`keeps` of the kind with the highest reward when the best of k is kept: 1 - (1-p)^k, so 1 - F^(k^t) after t generations."""
    return lambda p: 1 - (1 - p) ** k


def luce(k: int, gain: float) -> Callable[[np.ndarray], np.ndarray]:
    """`keeps` of a kind whose reward is `gain` above the other's, one of k kept by Luce's choice: for large k odds rise by e^gain."""
    of_kind = np.arange(k + 1)
    chosen = of_kind / (of_kind + (k - of_kind) * math.exp(-gain))
    return lambda p: binom.pmf(of_kind[None, :], k, p[:, None]) @ chosen


def cross_trained(first: float, n: int, emitted: int, shares: Any, t: int) -> tuple[np.ndarray, np.ndarray]:
    """E[1 - sum p_i^2] of each lab [M], and E ||p_i - p_j||^2 of each pair [M, M], after t fits of labs that train on each other's samples.

    Categories of diversity `first`; the first fit of every lab is to n real points of its own, a later one of lab i to n shares[i][j] of the
    `emitted` samples of every lab j, drawn without replacement and independently of the other labs' draws. With G[i, j] the probability
    that a sample of lab i and another one of lab j differ: two points of one training set are two different samples, while points of two
    training sets that come from one lab are the same sample with probability 1/emitted.

    M labs on pooled samples lose (1 + (M-1) n / (M emitted)) / (n M) of what they have together per fit. With many samples that is M times
    less than a lab by itself, as in the literature, where every lab draws n new ones from the mixture; with emitted = n it is M^2 / (2M-1)
    times less, since labs draw from the same few.
    """
    m = n * np.asarray(shares, dtype=float)
    pairs = np.full((len(m), len(m)), first)
    np.fill_diagonal(pairs, first * (1 - 1 / n))
    for _ in range(t - 1):
        own, mixed = pairs.diagonal(), m @ pairs @ m.T
        pairs = (mixed - (m * own) @ m.T / emitted) / n**2
        np.fill_diagonal(pairs, (mixed.diagonal() - m @ own) / n**2)
    own = pairs.diagonal()
    return own.copy(), 2 * pairs - own[:, None] - own[None, :]


def guided(p: np.ndarray, mean: np.ndarray, variance: np.ndarray, w: float) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances [..., C] of components that are sampled with guidance 1 + w on exact scores, by the probability-flow equation.

    The variance v (v/V)^w, V of all components together, is neither v/(1 + w) nor that of the density tilted by guidance, which has
    the precision (1 + w)/v - w/V. Means are pushed away from the overall one.
    """
    overall = (p * mean).sum(-1, keepdims=True)
    share = variance / ((p * (variance + mean**2)).sum(-1, keepdims=True) - overall**2)
    push = w * (mean - overall) * share ** ((1 + w) / 2) * hyp2f1(0.5, (1 + w) / 2, 1.5, 1 - share)
    return mean + push, variance * share**w


def guided_loop(n: int, t: int, gap: float, w: float) -> tuple[float, float]:
    """E of the variance within two classes and of that between them after t fits of replace with n points and guidance 1 + w.

    Truth: variances 1, means `gap` apart, equal weights. `guided` over and over, with the first order in 1/n of what sampling adds: mean
    and covariance of (weight, two means, two variances) go through it as ten sigma points (Julier & Uhlmann 1997).
    """

    def fitted(weight: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sampling variance [k, 5] of a fit to n points from each of k mixtures."""
        p = np.stack([weight, 1 - weight], 1)
        values = np.column_stack([weight, mean, variance * (1 - 1 / (n * p))])
        return values, np.column_stack(
            [weight * (1 - weight) / n, variance / (n * p), 2 * variance**2 / (n * p)]
        )

    means, spread = fitted(np.full(1, 0.5), np.array([[-gap / 2, gap / 2]]), np.ones((1, 2)))
    for k in range(t):
        centre = means.mean(0)
        root = np.linalg.cholesky(
            5 * ((means - centre).T @ (means - centre) / len(means) + np.diag(spread.mean(0)))
        )
        points = centre + np.concatenate([root.T, -root.T])
        weight, mean, variance = points[:, 0], points[:, 1:3], points[:, 3:]
        p = np.stack([weight, 1 - weight], 1)
        if k < t - 1:
            means, spread = fitted(weight, *guided(p, mean, variance, w))
    return float((p * variance).sum(1).mean()), float(
        (weight * (1 - weight) * (mean[:, 1] - mean[:, 0]) ** 2).mean()
    )
