"""Laws of self-consuming loops, checked by sending the exact families through the engine, the store and the measures.

Every law is about the model fitted in generation g; papers count fits from 1, so their t is g + 1. The unit of
replication is the chain: samples inside one chain share their ancestry. A |z| of 4 or more is a failure.
"""

from __future__ import annotations

import difflib
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import gammaln, hyp2f1, polygamma, psi
from scipy.stats import binom

from difflab import config as configs
from difflab.core.errors import ConfigError
from difflab.core.files import read_tensors
from difflab.core.seeds import seed_of
from difflab.loop.chain import run_chain
from difflab.runs.run import EcosystemRun


# ------------------------------------------------------------------------------------------- closed forms
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


# --------------------------------------------------------------------------------------------------- laws
@dataclass(frozen=True)
class Law:
    """One law: what it says, the chain that shows it (of an ecosystem the mean over labs), the statistic of each chain and its expectation."""

    what: str
    chain: dict[str, Any]
    fit: int  # t, counted from 1 as in the papers
    statistic: Callable[[dict[str, np.ndarray]], np.ndarray]
    theory: float
    spread: float | None = (
        None  # known standard deviation of the statistic of a chain: of a selector's chains, run one by one, two are enough
    )


def _chain(
    family: str, n: int, t: int, regime: str = "replace", count: Any = None, **rest: Any
) -> dict[str, Any]:
    model = {"family": family, **{k: v for k, v in rest.items() if k not in ("a",)}}
    out: dict[str, Any] = {
        "generations": t - 1,
        "data": {"source": "exact", "train_size": n},
        "model": model,
        "regime": {"name": regime},
        "sample": {"count": count or n},
    }
    if "a" in rest:
        out["regime"]["real_fraction"] = rest["a"]
    return out


def _of(
    name: str, transform: Callable[[np.ndarray], np.ndarray] = lambda v: v
) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    return lambda measures: transform(measures[name])


def _laws() -> dict[str, Law]:
    laws: dict[str, Law] = {}

    def add(
        name: str,
        what: str,
        chain: dict[str, Any],
        statistic: Any,
        theory: float,
        spread: float | None = None,
    ) -> None:
        laws[name] = Law(
            what,
            chain,
            chain["generations"] + 1,
            _of(statistic) if isinstance(statistic, str) else statistic,
            theory,
            spread,
        )

    mle = _chain("gaussian", 50, 20)
    add("A1-variance", "replace, ML: variance (1-1/n)^t", mle, "variance", (1 - 1 / 50) ** 20)
    add("A1-drift", "replace, ML: drift is the variance lost", mle, "squared_drift", 1 - (1 - 1 / 50) ** 20)
    add(
        "A1-trace",
        "replace, ML, 3 dimensions: trace of the covariance",
        _chain("gaussian", 30, 12, dim=3),
        "variance",
        (1 - 1 / 30) ** 12,
    )
    n, t = 10, 20
    unbiased = _chain("gaussian", n, t, estimator="unbiased")
    h = (n - 1) / 2
    log, spread = t * float(psi(h) - math.log(h)), t * float(polygamma(1, h))
    add("A2-log", "replace, unbiased: mean of log variance", unbiased, "log_variance", log)
    add(
        "A2-log-spread",
        "replace, unbiased: spread of log variance",
        unbiased,
        lambda m: (m["log_variance"] - log) ** 2,
        spread,
    )
    add("A2-sd", "replace, unbiased: E sd = c4^t", unbiased, "sd", c4(n) ** t)
    add("A2-drift", "replace, unbiased: drift t/n", unbiased, "squared_drift", t / n)
    add(
        "A3-w2",
        "replace, unbiased: squared Wasserstein distance",
        _chain("gaussian", 200, 10, estimator="unbiased"),
        "w2_squared",
        10 / 200 + 2 * (1 - c4(200) ** 10),
    )
    biased = _chain("gaussian", 20, 8, estimator="unbiased", sampling_bias=0.8)
    add("A4-variance", "replace with sampling bias 0.8: variance bias^(t-1)", biased, "variance", 0.8**7)
    add(
        "A4-drift",
        "replace with sampling bias: the drift stops",
        biased,
        "squared_drift",
        (1 - 0.8**8) / (20 * 0.2),
    )
    add(
        "A4-ml",
        "replace with sampling bias, ML",
        _chain("gaussian", 20, 8, sampling_bias=0.8),
        "variance",
        0.8**7 * (1 - 1 / 20) ** 8,
    )
    accumulate = _chain("gaussian", 5, 30, "accumulate")
    add("B1-variance", "accumulate: a positive limit", accumulate, "variance", polya(5, 30))
    add("B1-drift", "accumulate: bounded drift", accumulate, "squared_drift", 1 - polya(5, 30))
    add(
        "B3-variance",
        "accumulate_subsample: a lower positive limit",
        _chain("gaussian", 8, 30, "accumulate_subsample"),
        "variance",
        subsampled(8, 30),
    )
    add(
        "R1-variance",
        "accumulate with sampling bias 0.7: falls as t^-0.3",
        _chain("gaussian", 10, 40, "accumulate", sampling_bias=0.7),
        "variance",
        polya(10, 40, 0.7),
    )
    refreshed = _chain("gaussian", 20, 40, "fresh_real", a=0.1)
    add("C1-variance", "fresh real 10%: a positive limit", refreshed, "variance", fresh(20, 0.1))
    add("C1-drift", "fresh real 10%: bounded drift", refreshed, "squared_drift", 1 - fresh(20, 0.1))
    c = 1 - 1 / (40 * (2 - 0.1))
    add(
        "R2-variance",
        "fresh real 10% with sampling bias 0.8",
        _chain("gaussian", 40, 30, "fresh_real", a=0.1, sampling_bias=0.8),
        "variance",
        0.1 * c / (1 - 0.9 * 0.8 * c),
    )
    # The second has more samples than it trains on, so that each chain draws its own rows.
    for name, n, k, count, weight, w in (
        ("D1", 20, 20, 20, "golden", (math.sqrt(5) - 1) / 2),
        ("D1-little", 20, 30, 60, 0.05, 0.05),
    ):
        mixed = _chain("gaussian", n + k, 10, "fresh_real", count, a=n / (n + k))
        mixed |= {"policies": [{"policy": "real_weight", "weight": weight}]}
        for i, what in enumerate(("variance", "drift")):
            statistic = "squared_drift" if what == "drift" else what
            add(
                f"{name}-{what}",
                f"{n} fresh real points of weight {w:.3g} against {k} samples",
                mixed,
                statistic,
                weighted(n, k, w, 10, n + k)[i],
            )
    averaged = _chain("gaussian", 20, 10) | {"policies": [{"policy": "average", "share": 0.5}]}
    add(
        "W1-variance",
        "replace, half of the weights kept: variance (1-1/n) (1-1/2n)^(t-1)",
        averaged,
        "variance",
        stepped(20, 10, 0.5)[0],
    )
    add(
        "W1-drift",
        "replace, half of the weights kept: a slower drift",
        averaged,
        "squared_drift",
        stepped(20, 10, 0.5)[1],
    )
    away = _chain("gaussian", 50, 8, sampling_bias=0.8) | {
        "train": {"start_from": "previous"},
        "policies": [{"policy": "neon", "strength": 0.5}],
    }
    add(
        "N1-variance",
        "replace with sampling bias 0.8 and Neon: variance times 1 + w (1 - bias (1-1/n))",
        away,
        "variance",
        stepped(50, 8, -0.5, 0.8)[0],
    )
    add(
        "N1-drift",
        "replace with sampling bias 0.8 and Neon: drift",
        away,
        "squared_drift",
        stepped(50, 8, -0.5, 0.8)[1],
    )
    sizes = [10 * (k + 1) ** 2 for k in range(8)]
    growing = _chain("gaussian", sizes[0], 8, count=sizes[1:], estimator="unbiased")
    add(
        "P1-drift",
        "growing training sets: drift is the sum of 1/n_t",
        growing,
        "squared_drift",
        sum(1 / k for k in sizes),
    )
    counts = _chain("categorical", 30, 15, categories=10, truth="zipf", exponent=1.0)
    ranks = 1 / np.arange(1, 11)
    p = ranks / ranks.sum()
    diversity = 1 - float((p**2).sum())
    add(
        "E1-diversity",
        "categories, replace: Gini-Simpson (1-1/n)^t",
        counts,
        "gini_simpson",
        diversity * (1 - 1 / 30) ** 15,
    )
    add("E1-share", "categories, replace: a share is a martingale", counts, "first_share", float(p[0]))
    add("E2-survivors", "categories, replace: how many are left", counts, "survivors", survivors(p, 30, 15))
    urn = _chain("categorical", 30, 15, "accumulate", categories=30)
    add(
        "E4-diversity",
        "categories, accumulate: the Polya urn",
        urn,
        "gini_simpson",
        (1 - 1 / 30) * polya(30, 15),
    )
    add(
        "E4-survivors",
        "categories, accumulate: none is lost after the first fit",
        urn,
        "survivors",
        30 * (1 - (1 - 1 / 30) ** 30),
    )
    add(
        "E5-diversity",
        "categories, fresh real 10%: a positive limit",
        _chain("categorical", 20, 40, "fresh_real", a=0.1, categories=10),
        "gini_simpson",
        0.9 * fresh(20, 0.1),
    )
    modes = _chain("mixture", 40, 12, components=8)
    add("M-modes", "mixture, replace: modes left", modes, "survivors", survivors(np.full(8, 1 / 8), 40, 12))
    truth = 1 + 16 * (8**2 - 1) / 12
    add(
        "M-conserved",
        "mixture, replace: variance plus drift is conserved",
        modes,
        lambda m: m["variance"] + m["squared_drift"],
        truth,
    )
    add(
        "M-variance",
        "mixture, replace: total variance (1-1/n)^t",
        modes,
        "variance",
        truth * (1 - 1 / 40) ** 12,
    )
    n, t = 30, 10
    ranked: dict[str, Any] = {"categories": 10, "truth": "zipf"}
    pooled = _chain("categorical", n, t, **ranked) | {
        "ecosystem": {"labs": 3, "exchange": "pooled", "real": "disjoint"}
    }
    within, distance = cross_trained(diversity, n, n, np.full((3, 3), 1 / 3), t)
    add(
        "K1-diversity",
        "3 labs on pooled samples, as many as they train on: the loss is 9/5 times slower",
        pooled,
        "gini_simpson",
        float(within[0]),
    )
    add(
        "K1-distance",
        "3 labs on pooled samples: nearly one model",
        pooled,
        "lab_distance",
        float(distance[0, 1]),
    )
    isolated = _chain("categorical", n, t, **ranked) | {
        "ecosystem": {"labs": 3, "exchange": "isolated", "real": "disjoint"}
    }
    add(
        "K2-diversity",
        "3 labs on their own samples: Gini-Simpson (1-1/n)^t",
        isolated,
        "gini_simpson",
        diversity * (1 - 1 / n) ** t,
    )
    add(
        "K2-distance",
        "3 labs on their own samples: apart by 2 H (1-(1-1/n)^t)",
        isolated,
        "lab_distance",
        2 * diversity * (1 - (1 - 1 / n) ** t),
    )
    flooded = _chain("categorical", n, t, count=2 * n, **ranked) | {
        "ecosystem": {"labs": 2, "exchange": "one_way", "real": "disjoint"}
    }
    flooded["regime"]["set_size"] = n
    follower, off = cross_trained(diversity, n, 2 * n, [[1, 0], [1, 0]], t)
    add(
        "K3-diversity",
        "a lab and one that trains on its samples: both lose 1/n per fit",
        flooded,
        "gini_simpson",
        float(follower.mean()),
    )
    add(
        "K3-distance",
        "a lab and one that trains on half of its samples, as it does: apart by chance alone",
        flooded,
        "lab_distance",
        float(off[0, 1]),
    )
    swapped = _chain("categorical", n, t, **ranked) | {
        "ecosystem": {"exchange": [[0, 1], [1, 0]], "real": "disjoint"}
    }
    crossed, far = cross_trained(diversity, n, n, [[0, 1], [1, 0]], t)
    add(
        "K4-diversity",
        "2 labs on each other's samples, never their own: (1-1/n)^t all the same",
        swapped,
        "gini_simpson",
        float(crossed.mean()),
    )
    add(
        "K4-distance",
        "2 labs on each other's samples: as far apart as labs by themselves",
        swapped,
        "lab_distance",
        float(far[0, 1]),
    )
    for name, fits, w in (("I1", 2, 2.0), ("I3", 6, 0.25), ("I3-strong", 3, 1.5)):
        classes, times = (
            _chain("mixture", 400, fits, components=2, guidance_scale=1 + w),
            f"{fits - 1} times" if fits > 2 else "once",
        )
        narrow, between = guided_loop(400, fits, 4.0, w)
        add(
            f"{name}-variance",
            f"two classes, guidance {1 + w:g} on exact scores, {times}: v (v/V)^{w:g}",
            classes,
            "within_variance",
            narrow,
        )
        push = f"two classes, guidance {1 + w:g} on exact scores, {times}: pushed apart"
        add(
            "I2-push" if name == "I1" else f"{name}-push",
            push,
            classes,
            lambda m: m["variance"] - m["within_variance"],
            between,
        )

    def selected(
        name: str, what: str, n: int, t: int, categories: int, a: float, policy: dict[str, Any], keeps: Any
    ) -> None:
        """A law of the share of category 0 where the policy, which prefers it, keeps as many samples as are trained on."""
        real = round(a * n)
        regime: dict[str, Any] = {"regime": "fresh_real", "a": a} if real else {}
        count = [policy["k"] * (n - real)] * (t - 1) + [policy["k"]]  # nothing is trained on the last samples
        chain = _chain("categorical", n, t, count=count, categories=categories, **regime)
        chain["policies"] = [{"reward": "value", "lowest": True, **policy}]
        add(name, what, chain, "first_share", *curated(1 / categories, n, t, keeps, real))

    selected(
        "J1-best",
        "best of 3 kept twice: 1 - F^(K^2)",
        400,
        3,
        10,
        0,
        {"policy": "best_of", "k": 3},
        best_of(3),
    )
    above, below = (
        "best of 4, fresh real 30%, (1-a)K > 1: an atom at the top",
        "best of 4, fresh real 80%, (1-a)K < 1: none",
    )
    selected("J2-atom", above, 200, 6, 50, 0.3, {"policy": "best_of", "k": 4}, best_of(4))
    selected("J2-no-atom", below, 400, 5, 50, 0.8, {"policy": "best_of", "k": 4}, best_of(4))
    likelier = "one of 32 kept twice by Luce's choice, rewards 1 apart: odds times e^2, nearly"
    selected("J3-luce", likelier, 100, 3, 2, 0, {"policy": "luce", "k": 32}, luce(32, 1.0))
    return laws


LAWS = _laws()
APART = 2
"""Chains of a selector, which are run one by one."""


def check(names: list[str], chains: int = 1000, seed: int = 0) -> list[dict[str, Any]]:
    """Run the chains behind these laws and compare: rows with keys law, what, theory, measured, z, chains.

    Laws about the same chain share one run. Raises ConfigError for an unknown law.
    """
    for name in names:
        if name not in LAWS:
            near = difflib.get_close_matches(name, LAWS, 1)
            raise ConfigError(
                f"unknown law '{name}'"
                + (f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(LAWS)}")
            )
    if chains < 2:
        raise ConfigError("theory wants at least 2 chains, which are the unit of replication")
    measured: dict[str, dict[str, np.ndarray]] = {}
    rows = []
    for name in names:
        law = LAWS[name]
        key = configs.digest(law.chain)
        if key not in measured:
            take = _through_the_engine if law.spread is None else _one_by_one
            measured[key] = take(law.chain, law.fit - 1, chains, seed)
        values = law.statistic(measured[key])
        mean, error = float(values.mean()), (law.spread or float(values.std(ddof=1))) / math.sqrt(len(values))
        if not error:
            raise ConfigError(f"{len(values)} chains show no spread in {name}; raise --chains")
        rows.append(
            {
                "law": name,
                "what": law.what,
                "theory": law.theory,
                "measured": mean,
                "z": (mean - law.theory) / error,
                "chains": len(values),
            }
        )
    return rows


def _through_the_engine(
    chain: dict[str, Any], generation: int, chains: int, seed: int
) -> dict[str, np.ndarray]:
    raw = {
        **chain,
        "seed": seed_of("theory", seed, configs.digest(chain)),
        "model": {**chain["model"], "replicates": chains},
    }
    with tempfile.TemporaryDirectory(prefix="difflab-theory-") as folder:
        run = run_chain(configs.parse(raw), Path(folder) / "run")
        labs = [read_tensors(part.gen(generation) / "replicates.safetensors") for part in run.parts]
        between = (
            read_tensors(run.between(generation).with_suffix(".safetensors"))
            if isinstance(run, EcosystemRun)
            else {}
        )
        return {name: np.mean([lab[name].numpy() for lab in labs], axis=0) for name in labs[0]} | {
            name: t.numpy() for name, t in between.items()
        }


def _one_by_one(chain: dict[str, Any], generation: int, chains: int, seed: int) -> dict[str, np.ndarray]:
    """Of chains that cannot go side by side: each a run of its own with a seed of its own, `APART` at most."""
    each = [_through_the_engine(chain, generation, 1, seed_of(seed, i)) for i in range(min(chains, APART))]
    return {name: np.concatenate([measures[name] for measures in each]) for name in each[0]}
