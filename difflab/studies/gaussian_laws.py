"""Laws of Gaussians: one function per chapter, each with the chains and their laws by name.

The formulas are in `difflab.studies.closed_forms`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import polygamma, psi

from difflab.studies.closed_forms import c4, fresh, polya, stepped, subsampled, weighted
from difflab.studies.law import Chapter, Law, Measures, chain


def replace() -> Chapter:
    """Every generation is fitted to samples of the one before alone."""
    ml = chain("gaussian", 50, 20)
    trace = chain("gaussian", 30, 12, dim=3)
    n, t = 10, 20
    unbiased = chain("gaussian", n, t, estimator="unbiased")
    wide = chain("gaussian", 200, 10, estimator="unbiased")
    half = (n - 1) / 2
    log_mean = t * float(psi(half) - math.log(half))
    log_spread = t * float(polygamma(1, half))

    def squared_deviation(measures: Measures) -> np.ndarray:
        return np.asarray((measures["log_variance"] - log_mean) ** 2)

    kept = (1 - 1 / 50) ** 20
    return {
        "A1-variance": Law("replace, maximum likelihood: the variance is (1-1/n)^t", ml, "variance", kept),
        "A1-drift": Law(
            "replace, maximum likelihood: the squared drift is the lost variance",
            ml,
            "squared_drift",
            1 - kept,
        ),
        "A1-trace": Law(
            "replace, maximum likelihood, 3 dimensions: the trace of the covariance is (1-1/n)^t",
            trace,
            "variance",
            (1 - 1 / 30) ** 12,
        ),
        "A2-log": Law(
            "replace, unbiased variance: the mean of log variance is t (psi(h) - log h), h = (n-1)/2",
            unbiased,
            "log_variance",
            log_mean,
        ),
        "A2-log-spread": Law(
            "replace, unbiased variance: the variance of log variance is t psi'(h), h = (n-1)/2",
            unbiased,
            squared_deviation,
            log_spread,
        ),
        "A2-sd": Law(
            "replace, unbiased variance: the mean standard deviation is c4^t", unbiased, "sd", c4(n) ** t
        ),
        "A2-drift": Law(
            "replace, unbiased variance: the squared drift is t/n", unbiased, "squared_drift", t / n
        ),
        "A3-w2": Law(
            "replace, unbiased variance: the squared Wasserstein distance is t/n + 2 (1 - c4^t)",
            wide,
            "w2_squared",
            10 / 200 + 2 * (1 - c4(200) ** 10),
        ),
    }


def replace_with_sampling_bias() -> Chapter:
    """The variance of samples is `sampling_bias` times the variance of the model."""
    unbiased = chain("gaussian", 20, 8, estimator="unbiased", sampling_bias=0.8)
    ml = chain("gaussian", 20, 8, sampling_bias=0.8)
    drift = (1 - 0.8**8) / (20 * 0.2)
    return {
        "A4-variance": Law(
            "replace, sampling bias 0.8: the variance is bias^(t-1)", unbiased, "variance", 0.8**7
        ),
        "A4-drift": Law(
            "replace, sampling bias 0.8: the squared drift is (1-bias^t) / (n (1-bias))",
            unbiased,
            "squared_drift",
            drift,
        ),
        "A4-ml": Law(
            "replace, sampling bias 0.8, maximum likelihood: the variance is bias^(t-1) (1-1/n)^t",
            ml,
            "variance",
            0.8**7 * (1 - 1 / 20) ** 8,
        ),
    }


def accumulate() -> Chapter:
    """Every generation is fitted to all points so far, or to a subsample of them."""
    all_points = chain("gaussian", 5, 30, "accumulate")
    subsample = chain("gaussian", 8, 30, "accumulate_subsample")
    biased = chain("gaussian", 10, 40, "accumulate", sampling_bias=0.7)
    return {
        "B1-variance": Law(
            "accumulate: the variance has a positive limit", all_points, "variance", polya(5, 30)
        ),
        "B1-drift": Law(
            "accumulate: the squared drift is bounded", all_points, "squared_drift", 1 - polya(5, 30)
        ),
        "B3-variance": Law(
            "accumulate_subsample: the variance has a positive limit, lower than that of accumulate",
            subsample,
            "variance",
            subsampled(8, 30),
        ),
        "R1-variance": Law(
            "accumulate, sampling bias 0.7: the variance falls as t^-0.3",
            biased,
            "variance",
            polya(10, 40, 0.7),
        ),
    }


def fresh_real() -> Chapter:
    """A tenth of every training set is new real data."""
    plain = chain("gaussian", 20, 40, "fresh_real", real_fraction=0.1)
    biased = chain("gaussian", 40, 30, "fresh_real", real_fraction=0.1, sampling_bias=0.8)
    c = 1 - 1 / (40 * (2 - 0.1))
    return {
        "C1-variance": Law(
            "10% fresh real points: the variance has a positive limit", plain, "variance", fresh(20, 0.1)
        ),
        "C1-drift": Law(
            "10% fresh real points: the squared drift is bounded", plain, "squared_drift", 1 - fresh(20, 0.1)
        ),
        "R2-variance": Law(
            "10% fresh real points, sampling bias 0.8: the limit of the variance",
            biased,
            "variance",
            0.1 * c / (1 - 0.9 * 0.8 * c),
        ),
    }


def _weighted(name: str, n: int, samples: int, count: int, policy_weight: Any, weight: float) -> Chapter:
    """Both laws of a chain with `n` fresh real points of total weight `weight`, and `samples`."""
    config = chain("gaussian", n + samples, 10, "fresh_real", count, real_fraction=n / (n + samples))
    config |= {"policies": [{"policy": "real_weight", "weight": policy_weight}]}
    what = f"{n} fresh real points of total weight {weight:.3g} and {samples} samples"
    variance, drift = weighted(n, samples, weight, 10, n + samples)
    return {
        f"{name}-variance": Law(f"{what}: the variance", config, "variance", variance),
        f"{name}-drift": Law(f"{what}: the squared drift", config, "squared_drift", drift),
    }


def weighted_real() -> Chapter:
    """Real points have their own weight in the fit (policy real_weight)."""
    golden = _weighted("D1", 20, 20, 20, "golden", (math.sqrt(5) - 1) / 2)
    # More samples are drawn than are trained on, so that each chain draws its own rows.
    return golden | _weighted("D1-little", 20, 30, 60, 0.05, 0.05)


def weights_of_models() -> Chapter:
    """Weights between two fits (policy average) and beyond them (policy neon)."""
    average = chain("gaussian", 20, 10) | {"policies": [{"policy": "average", "share": 0.5}]}
    neon = chain("gaussian", 50, 8, sampling_bias=0.8) | {
        "train": {"start_from": "previous"},
        "policies": [{"policy": "neon", "strength": 0.5}],
    }
    averaged_variance, averaged_drift = stepped(20, 10, 0.5)
    neon_variance, neon_drift = stepped(50, 8, -0.5, 0.8)
    return {
        "W1-variance": Law(
            "replace, half of the weights kept: the variance is (1-1/n) (1-1/2n)^(t-1)",
            average,
            "variance",
            averaged_variance,
        ),
        "W1-drift": Law(
            "replace, half of the weights kept: the squared drift grows more slowly",
            average,
            "squared_drift",
            averaged_drift,
        ),
        "N1-variance": Law(
            "replace, sampling bias 0.8, Neon: each fit multiplies the variance by 1 + w (1 - bias (1-1/n))",
            neon,
            "variance",
            neon_variance,
        ),
        "N1-drift": Law(
            "replace, sampling bias 0.8, Neon: the squared drift", neon, "squared_drift", neon_drift
        ),
    }


def growing() -> Chapter:
    """Training sets grow as the square of t."""
    sizes = [10 * (k + 1) ** 2 for k in range(8)]
    config = chain("gaussian", sizes[0], 8, count=sizes[1:], estimator="unbiased")
    what = "growing training sets: the squared drift is the sum of 1/n_t"
    return {"P1-drift": Law(what, config, "squared_drift", sum(1 / k for k in sizes))}
