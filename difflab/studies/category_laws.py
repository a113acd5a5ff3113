"""Laws of categories and mixtures, of ecosystems of labs, of guidance and of selection.

There is one function per chapter. The formulas are in `difflab.studies.closed_forms`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from difflab.studies.closed_forms import (
    best_of,
    cross_trained,
    curated,
    fresh,
    guided_loop,
    luce,
    polya,
    survivors,
)
from difflab.studies.law import Chapter, Law, Measures, chain


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
        "E1-diversity": Law(
            "categories, replace: the Gini-Simpson index is multiplied by (1-1/n)^t",
            alone,
            "gini_simpson",
            kept,
        ),
        "E1-share": Law(
            "categories, replace: the mean of a share is constant (a martingale)",
            alone,
            "first_share",
            float(shares[0]),
        ),
        "E2-survivors": Law(
            "categories, replace: the number of surviving categories",
            alone,
            "survivors",
            survivors(shares, 30, 15),
        ),
        "E4-diversity": Law(
            "categories, accumulate: the Gini-Simpson index of a Polya urn",
            urn,
            "gini_simpson",
            (1 - 1 / 30) * polya(30, 15),
        ),
        "E4-survivors": Law(
            "categories, accumulate: no category is lost after the first fit", urn, "survivors", seen_once
        ),
        "E5-diversity": Law(
            "categories, 10% fresh real points: the Gini-Simpson index has a positive limit",
            renewed,
            "gini_simpson",
            0.9 * fresh(20, 0.1),
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
        "M-modes": Law("mixture, replace: the number of surviving modes", config, "survivors", alive),
        "M-conserved": Law(
            "mixture, replace: variance plus squared drift is constant", config, variance_and_drift, total
        ),
        "M-variance": Law(
            "mixture, replace: the total variance is multiplied by (1-1/n)^t", config, "variance", kept
        ),
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
            "3 labs on pooled samples, as many as they train on: diversity is lost 9/5 times more slowly",
            pooled,
            "gini_simpson",
            float(within[0]),
        ),
        "K1-distance": Law(
            "3 labs on pooled samples: their models are nearly equal",
            pooled,
            "lab_distance",
            float(distance[0, 1]),
        ),
        "K2-diversity": Law(
            "3 labs on their own samples: the Gini-Simpson index is multiplied by (1-1/n)^t",
            isolated,
            "gini_simpson",
            first * (1 - 1 / n) ** t,
        ),
        "K2-distance": Law(
            "3 labs on their own samples: their squared distance is 2 H (1-(1-1/n)^t)",
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
            "2 labs, both on samples of the first: each loses 1/n of its diversity per fit",
            one_way,
            "gini_simpson",
            float(one_way_diversity.mean()),
        ),
        "K3-distance": Law(
            "2 labs, both on samples of the first: only chance separates them",
            one_way,
            "lab_distance",
            float(one_way_distance[0, 1]),
        ),
        "K4-diversity": Law(
            "2 labs on each other's samples only: the Gini-Simpson index is multiplied by (1-1/n)^t",
            swapped,
            "gini_simpson",
            float(swapped_diversity.mean()),
        ),
        "K4-distance": Law(
            "2 labs on each other's samples only: as far apart as isolated labs",
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
        variance_name: Law(
            f"{what}: the variance of a class becomes v (v/V)^{w:g}", config, "within_variance", within
        ),
        push_name: Law(f"{what}: the means of the classes move apart", config, variance_between, between),
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
    atom = "best of 4, 30% fresh real points, (1-a)K > 1: an atom forms at the best category"
    no_atom = "best of 4, 80% fresh real points, (1-a)K < 1: no atom forms"
    odds = "one of 32 kept by Luce's choice in two rounds, rewards 1 apart: the odds grow by nearly e^2"
    return {
        "J1-best": _selected(
            "best of 3 in two rounds: the share of the best category is 1 - F^(K^2)",
            400,
            3,
            10,
            0,
            best3,
            best_of(3),
        ),
        "J2-atom": _selected(atom, 200, 6, 50, 0.3, best4, best_of(4)),
        "J2-no-atom": _selected(no_atom, 400, 5, 50, 0.8, best4, best_of(4)),
        "J3-luce": _selected(odds, 100, 3, 2, 0, luce32, luce(32, 1.0)),
    }
