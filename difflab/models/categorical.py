"""Frequencies of categories that are fitted again to their samples.

This is the Wright-Fisher process (Kazdan et al. 2410.16713).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflab.config import Sample
from difflab.core.files import read_tensors, write_tensors
from difflab.core.rows import RowKind
from difflab.core.seeds import numpy_generator
from difflab.core.shape import Shape
from difflab.models.family import Exact

_CHAINS: dict[str, str] = {"topic": "Fitted distribution", "counts": "chains"}
ROWS = (
    RowKind(
        "gini_simpson",
        unit="probability",
        better="real",
        about="Probability that two draws from the fitted frequencies are of different categories "
        "(Gini-Simpson index).",
        title="Gini-Simpson index",
        **_CHAINS,
    ),
    RowKind(
        "survivors",
        unit="categories",
        better="higher",
        about="Number of categories, or of mixture components, whose fitted frequency is above 0.",
        title="surviving categories",
        **_CHAINS,
    ),
    RowKind(
        "first_share",
        unit="frequency",
        better="real",
        about="Fitted frequency of the first category.",
        title="frequency of the first category",
        **_CHAINS,
    ),
)


def uniforms(seeds: list[int], replicates: int) -> np.ndarray:
    """Uniform random numbers in [0, 1), one per seed and chain: [n, R]."""
    return np.stack([numpy_generator(seed).random(replicates) for seed in seeds])


def pick(p: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Draw categories [n, R] by the inverse CDF, from frequencies [R, C] and uniform numbers [n, R]."""
    cdf = np.cumsum(p, axis=1)
    cdf /= cdf[:, -1:]
    # The category is the number of thresholds that are at most u. A category of frequency 0 is never drawn.
    return (u[:, :, None] >= cdf[None, :, :-1]).sum(-1)


def count(x: np.ndarray, categories: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Counts [R, C] of the categories `x` [n, R]. `weights` [n] or [n, R] says how often each row counts."""
    replicates = x.shape[1]
    flat = x.astype(np.int64) + categories * np.arange(replicates)
    flat_weights = None
    if weights is not None:
        flat_weights = np.broadcast_to(weights.reshape(len(x), -1), x.shape).ravel()
    return np.bincount(flat.ravel(), flat_weights, minlength=replicates * categories).reshape(
        replicates, categories
    )


def truth_of(spec: Any) -> np.ndarray:
    """The true frequencies: [C]."""
    ranks = np.arange(1, spec.categories + 1, dtype=np.float64)
    p = ranks**-spec.exponent if spec.truth == "zipf" else np.ones(spec.categories)
    return p / p.sum()


class Categorical(Exact):
    """Family ``categorical``: frequencies of C categories, for each of R chains.

    Sampling at temperature T divides the log-odds by T.
    """

    p: np.ndarray  # frequencies, [R, C]

    @classmethod
    def truth(cls, spec: Any, seeds: list[int]) -> np.ndarray:
        p = np.broadcast_to(truth_of(spec), (spec.replicates, spec.categories))
        return pick(p, uniforms(seeds, spec.replicates))[..., None].astype(np.float64)

    def fit(
        self, records: np.ndarray, labels: np.ndarray | None = None, weights: np.ndarray | None = None
    ) -> None:
        self.p = count(records[..., 0], self.spec.categories, weights) / len(records)

    def sample(self, labels: np.ndarray | None, seeds: list[int], sampling: Sample) -> np.ndarray:
        # The division keeps the largest power at 1, so that not all powers underflow.
        p = (self.p / self.p.max(1, keepdims=True)) ** (1 / self.spec.temperature)
        return pick(p / p.sum(1, keepdims=True), uniforms(seeds, len(p)))[..., None].astype(np.float64)

    def measures(self) -> dict[str, np.ndarray]:
        return {
            "gini_simpson": 1 - (self.p**2).sum(1),
            "survivors": (self.p > 0).sum(1).astype(np.float64),
            "first_share": self.p[:, 0],
        }

    def apart(self, other: Categorical) -> np.ndarray:
        return ((self.p - other.p) ** 2).sum(1)

    def save(self, folder: Path) -> None:
        write_tensors(folder / "categorical.safetensors", {"p": torch.from_numpy(self.p)})

    @classmethod
    def load(cls, spec: Any, shape: Shape, folder: Path) -> Categorical:
        model = cls(spec, shape)
        model.p = read_tensors(folder / "categorical.safetensors")["p"].numpy()
        return model
