"""The table of laws: for each law the chain that obeys it, the statistic of that chain and its exact
expectation.

Every law is about the model of the last generation of its chain. Papers count fits from 1, so their t is
generation + 1. Each function below is one chapter of the table; `LAWS` joins the chapters. The formulas are
in `difflab.studies.closed_forms`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import polygamma, psi

from difflab.studies.closed_forms import (
    best_of,
    c4,
    cross_trained,
    curated,
    fresh,
    guided_loop,
    luce,
    polya,
    stepped,
    subsampled,
    survivors,
    weighted,
)

Measures = dict[str, np.ndarray]
"""Statistics of a generation by name, each with one value per chain [R]."""


@dataclass(frozen=True)
class Law:
    """One law.

    Attributes:
        what: the sentence that is printed.
        chain: the config of the chain; of an ecosystem the mean over labs is taken.
        measure: the name of a measure of the chain, or a function of all its measures, with one value per
            chain.
        theory: the expectation of the statistic.
        spread: its standard deviation over chains where that is known (chains with a selector run one by one,
            so two of them have to be enough); None = estimated from the chains.
    """

    what: str
    chain: dict[str, Any]
    measure: str | Callable[[Measures], np.ndarray]
    theory: float
    spread: float | None = None

    @property
    def fit(self) -> int:
        """t of the last generation, counted from 1 as in the papers."""
        return int(self.chain["generations"]) + 1

    def statistic(self, measures: Measures) -> np.ndarray:
        """The statistic of each chain [R]."""
        return measures[self.measure] if isinstance(self.measure, str) else self.measure(measures)


Chapter = dict[str, Law]


def chain(
    family: str,
    n: int,
    t: int,
    regime: str = "replace",
    count: Any = None,
    real_fraction: float | None = None,
    **model: Any,
) -> dict[str, Any]:
    """The config of a chain of t fits of `n` points each.

    Args:
        count: samples per generation, None = n.
        model: keys of the family.
    """
    config: dict[str, Any] = {
        "generations": t - 1,
        "data": {"source": "exact", "train_size": n},
        "model": {"family": family, **model},
        "regime": {"name": regime},
        "sample": {"count": count or n},
    }
    if real_fraction is not None:
        config["regime"]["real_fraction"] = real_fraction
    return config


# ------------------------------------------------------------------------------------------------- Gaussians
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
        "A1-variance": Law("replace, ML: variance (1-1/n)^t", ml, "variance", kept),
        "A1-drift": Law("replace, ML: drift is the variance lost", ml, "squared_drift", 1 - kept),
        "A1-trace": Law(
            "replace, ML, 3 dimensions: trace of the covariance", trace, "variance", (1 - 1 / 30) ** 12
        ),
        "A2-log": Law("replace, unbiased: mean of log variance", unbiased, "log_variance", log_mean),
        "A2-log-spread": Law(
            "replace, unbiased: spread of log variance", unbiased, squared_deviation, log_spread
        ),
        "A2-sd": Law("replace, unbiased: E sd = c4^t", unbiased, "sd", c4(n) ** t),
        "A2-drift": Law("replace, unbiased: drift t/n", unbiased, "squared_drift", t / n),
        "A3-w2": Law(
            "replace, unbiased: squared Wasserstein distance",
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
            "replace with sampling bias 0.8: variance bias^(t-1)", unbiased, "variance", 0.8**7
        ),
        "A4-drift": Law("replace with sampling bias: the drift stops", unbiased, "squared_drift", drift),
        "A4-ml": Law("replace with sampling bias, ML", ml, "variance", 0.8**7 * (1 - 1 / 20) ** 8),
    }


def accumulate() -> Chapter:
    """Every generation is fitted to all points so far, or to a subsample of them."""
    all_points = chain("gaussian", 5, 30, "accumulate")
    subsample = chain("gaussian", 8, 30, "accumulate_subsample")
    biased = chain("gaussian", 10, 40, "accumulate", sampling_bias=0.7)
    return {
        "B1-variance": Law("accumulate: a positive limit", all_points, "variance", polya(5, 30)),
        "B1-drift": Law("accumulate: bounded drift", all_points, "squared_drift", 1 - polya(5, 30)),
        "B3-variance": Law(
            "accumulate_subsample: a lower positive limit", subsample, "variance", subsampled(8, 30)
        ),
        "R1-variance": Law(
            "accumulate with sampling bias 0.7: falls as t^-0.3", biased, "variance", polya(10, 40, 0.7)
        ),
    }


def fresh_real() -> Chapter:
    """A tenth of every training set is new real data."""
    plain = chain("gaussian", 20, 40, "fresh_real", real_fraction=0.1)
    biased = chain("gaussian", 40, 30, "fresh_real", real_fraction=0.1, sampling_bias=0.8)
    c = 1 - 1 / (40 * (2 - 0.1))
    return {
        "C1-variance": Law("fresh real 10%: a positive limit", plain, "variance", fresh(20, 0.1)),
        "C1-drift": Law("fresh real 10%: bounded drift", plain, "squared_drift", 1 - fresh(20, 0.1)),
        "R2-variance": Law(
            "fresh real 10% with sampling bias 0.8", biased, "variance", 0.1 * c / (1 - 0.9 * 0.8 * c)
        ),
    }


def _weighted(name: str, n: int, samples: int, count: int, policy_weight: Any, weight: float) -> Chapter:
    """Both laws of a chain with `n` fresh real points of total weight `weight`, and `samples`."""
    config = chain("gaussian", n + samples, 10, "fresh_real", count, real_fraction=n / (n + samples))
    config |= {"policies": [{"policy": "real_weight", "weight": policy_weight}]}
    what = f"{n} fresh real points of weight {weight:.3g} against {samples} samples"
    variance, drift = weighted(n, samples, weight, 10, n + samples)
    return {
        f"{name}-variance": Law(what, config, "variance", variance),
        f"{name}-drift": Law(what, config, "squared_drift", drift),
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
            "replace, half of the weights kept: variance (1-1/n) (1-1/2n)^(t-1)",
            average,
            "variance",
            averaged_variance,
        ),
        "W1-drift": Law(
            "replace, half of the weights kept: a slower drift", average, "squared_drift", averaged_drift
        ),
        "N1-variance": Law(
            "replace with sampling bias 0.8 and Neon: variance times 1 + w (1 - bias (1-1/n))",
            neon,
            "variance",
            neon_variance,
        ),
        "N1-drift": Law("replace with sampling bias 0.8 and Neon: drift", neon, "squared_drift", neon_drift),
    }


def growing() -> Chapter:
    """Training sets grow as the square of t."""
    sizes = [10 * (k + 1) ** 2 for k in range(8)]
    config = chain("gaussian", sizes[0], 8, count=sizes[1:], estimator="unbiased")
    what = "growing training sets: drift is the sum of 1/n_t"
    return {"P1-drift": Law(what, config, "squared_drift", sum(1 / k for k in sizes))}


# ----------------------------------------------------------------------------------- categories and mixtures
def zipf(categories: int) -> np.ndarray:
    """Shares of categories under Zipf's law with exponent 1, float64 [categories]."""
    ranks = 1 / np.arange(1, categories + 1)
    return np.asarray(ranks / ranks.sum())


def diversity(shares: np.ndarray) -> float:
    """Gini-Simpson index 1 - sum p^2."""
    return 1 - float((shares**2).sum())


def categories() -> Chapter:
    """Counts of categories: Wright-Fisher under replace, a Polya urn under accumulate."""
    shares = zipf(10)
    alone = chain("categorical", 30, 15, categories=10, truth="zipf", exponent=1.0)
    urn = chain("categorical", 30, 15, "accumulate", categories=30)
    renewed = chain("categorical", 20, 40, "fresh_real", real_fraction=0.1, categories=10)
    kept = diversity(shares) * (1 - 1 / 30) ** 15
    seen_once = 30 * (1 - (1 - 1 / 30) ** 30)
    return {
        "E1-diversity": Law("categories, replace: Gini-Simpson (1-1/n)^t", alone, "gini_simpson", kept),
        "E1-share": Law(
            "categories, replace: a share is a martingale", alone, "first_share", float(shares[0])
        ),
        "E2-survivors": Law(
            "categories, replace: how many are left", alone, "survivors", survivors(shares, 30, 15)
        ),
        "E4-diversity": Law(
            "categories, accumulate: the Polya urn", urn, "gini_simpson", (1 - 1 / 30) * polya(30, 15)
        ),
        "E4-survivors": Law(
            "categories, accumulate: none is lost after the first fit", urn, "survivors", seen_once
        ),
        "E5-diversity": Law(
            "categories, fresh real 10%: a positive limit", renewed, "gini_simpson", 0.9 * fresh(20, 0.1)
        ),
    }


def modes() -> Chapter:
    """Eight separate modes under replace."""
    config = chain("mixture", 40, 12, components=8)
    total = 1 + 16 * (8**2 - 1) / 12

    def variance_and_drift(measures: Measures) -> np.ndarray:
        return np.asarray(measures["variance"] + measures["squared_drift"])

    kept = total * (1 - 1 / 40) ** 12
    alive = survivors(np.full(8, 1 / 8), 40, 12)
    return {
        "M-modes": Law("mixture, replace: modes left", config, "survivors", alive),
        "M-conserved": Law(
            "mixture, replace: variance plus drift is conserved", config, variance_and_drift, total
        ),
        "M-variance": Law("mixture, replace: total variance (1-1/n)^t", config, "variance", kept),
    }


# ------------------------------------------------------------------------------------------------ ecosystems
def _labs(n: int, t: int, count: int | None = None, **ecosystem: Any) -> dict[str, Any]:
    config = chain("categorical", n, t, count=count, categories=10, truth="zipf")
    return config | {"ecosystem": {**ecosystem, "real": "disjoint"}}


def pooled_and_isolated_labs() -> Chapter:
    """Three labs that share all samples, and three that share none."""
    n, t = 30, 10
    first = diversity(zipf(10))
    pooled = _labs(n, t, labs=3, exchange="pooled")
    isolated = _labs(n, t, labs=3, exchange="isolated")
    within, distance = cross_trained(first, n, n, np.full((3, 3), 1 / 3), t)
    return {
        "K1-diversity": Law(
            "3 labs on pooled samples, as many as they train on: the loss is 9/5 times slower",
            pooled,
            "gini_simpson",
            float(within[0]),
        ),
        "K1-distance": Law(
            "3 labs on pooled samples: nearly one model", pooled, "lab_distance", float(distance[0, 1])
        ),
        "K2-diversity": Law(
            "3 labs on their own samples: Gini-Simpson (1-1/n)^t",
            isolated,
            "gini_simpson",
            first * (1 - 1 / n) ** t,
        ),
        "K2-distance": Law(
            "3 labs on their own samples: apart by 2 H (1-(1-1/n)^t)",
            isolated,
            "lab_distance",
            2 * first * (1 - (1 - 1 / n) ** t),
        ),
    }


def one_way_and_swapped_labs() -> Chapter:
    """Two labs: the second trains on samples of the first, or each on samples of the other."""
    n, t = 30, 10
    first = diversity(zipf(10))
    one_way = _labs(n, t, 2 * n, labs=2, exchange="one_way")
    one_way["regime"]["set_size"] = n
    swapped = _labs(n, t, exchange=[[0, 1], [1, 0]])
    one_way_diversity, one_way_distance = cross_trained(first, n, 2 * n, [[1, 0], [1, 0]], t)
    swapped_diversity, swapped_distance = cross_trained(first, n, n, [[0, 1], [1, 0]], t)
    return {
        "K3-diversity": Law(
            "a lab and one that trains on its samples: both lose 1/n per fit",
            one_way,
            "gini_simpson",
            float(one_way_diversity.mean()),
        ),
        "K3-distance": Law(
            "a lab and one that trains on half of its samples, as it does: apart by chance alone",
            one_way,
            "lab_distance",
            float(one_way_distance[0, 1]),
        ),
        "K4-diversity": Law(
            "2 labs on each other's samples, never their own: (1-1/n)^t all the same",
            swapped,
            "gini_simpson",
            float(swapped_diversity.mean()),
        ),
        "K4-distance": Law(
            "2 labs on each other's samples: as far apart as labs by themselves",
            swapped,
            "lab_distance",
            float(swapped_distance[0, 1]),
        ),
    }


# ------------------------------------------------------------------------------------ guidance and selection
def _guided(variance_name: str, push_name: str, fits: int, w: float) -> Chapter:
    """Both laws of two classes that are sampled with guidance 1 + w in every generation but the last."""
    config = chain("mixture", 400, fits, components=2, guidance_scale=1 + w)
    times = "once" if fits == 2 else f"{fits - 1} times"
    within, between = guided_loop(400, fits, 4.0, w)
    what = f"two classes, guidance {1 + w:g} on exact scores, {times}"

    def variance_between(measures: Measures) -> np.ndarray:
        return np.asarray(measures["variance"] - measures["within_variance"])

    return {
        variance_name: Law(f"{what}: v (v/V)^{w:g}", config, "within_variance", within),
        push_name: Law(f"{what}: pushed apart", config, variance_between, between),
    }


def guidance() -> Chapter:
    """Classifier-free guidance on exact scores."""
    once = _guided("I1-variance", "I2-push", 2, 2.0)
    weak = _guided("I3-variance", "I3-push", 6, 0.25)
    return once | weak | _guided("I3-strong-variance", "I3-strong-push", 3, 1.5)


def _selected(
    what: str, n: int, t: int, categories: int, real_fraction: float, policy: dict[str, Any], keeps: Any
) -> Law:
    """The share of category 0, which the policy prefers. As many samples are kept as are trained on."""
    real = round(real_fraction * n)
    count = [policy["k"] * (n - real)] * (t - 1) + [policy["k"]]  # nothing is trained on the last samples
    if real:
        config = chain("categorical", n, t, "fresh_real", count, real_fraction, categories=categories)
    else:
        config = chain("categorical", n, t, count=count, categories=categories)
    config["policies"] = [{"reward": "value", "lowest": True, **policy}]
    mean, spread = curated(1 / categories, n, t, keeps, real)
    return Law(what, config, "first_share", mean, spread)


def selection() -> Chapter:
    """Samples are selected by a reward before the next model is trained on them."""
    best3, best4 = {"policy": "best_of", "k": 3}, {"policy": "best_of", "k": 4}
    luce32 = {"policy": "luce", "k": 32}
    atom = "best of 4, fresh real 30%, (1-a)K > 1: an atom at the top"
    no_atom = "best of 4, fresh real 80%, (1-a)K < 1: none"
    odds = "one of 32 kept twice by Luce's choice, rewards 1 apart: odds times e^2, nearly"
    return {
        "J1-best": _selected("best of 3 kept twice: 1 - F^(K^2)", 400, 3, 10, 0, best3, best_of(3)),
        "J2-atom": _selected(atom, 200, 6, 50, 0.3, best4, best_of(4)),
        "J2-no-atom": _selected(no_atom, 400, 5, 50, 0.8, best4, best_of(4)),
        "J3-luce": _selected(odds, 100, 3, 2, 0, luce32, luce(32, 1.0)),
    }


CHAPTERS: tuple[Callable[[], Chapter], ...] = (
    replace,
    replace_with_sampling_bias,
    accumulate,
    fresh_real,
    weighted_real,
    weights_of_models,
    growing,
    categories,
    modes,
    pooled_and_isolated_labs,
    one_way_and_swapped_labs,
    guidance,
    selection,
)
LAWS: dict[str, Law] = {}
"""Every law by its name, in the order of the chapters."""
for _chapter in CHAPTERS:
    LAWS |= _chapter()
