"""A law: a chain of an exact family, a statistic of it, and the exact expectation of the statistic.

Every law is about the model of the last generation of its chain. Papers count fits from 1, so their t is
generation + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

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
