"""Frequencies of categories, refitted: the Wright-Fisher process (Kazdan et al. 2410.16713)."""

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
    """One uniform per seed and chain: [n, R]."""
    return np.stack([numpy_generator(seed).random(replicates) for seed in seeds])


def pick(p: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Inverse CDF: categories [n, R] from frequencies [R, C] and uniforms [n, R]."""
    cdf = np.cumsum(p, axis=1)
    cdf /= cdf[:, -1:]
    # Counting the thresholds below u, chain by chain; a category of frequency 0 has an empty interval.
    return (u[:, :, None] >= cdf[None, :, :-1]).sum(-1)


def count(x: np.ndarray, categories: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Counts [R, C] of categories [n, R], each row counted `weights` times, [n] or [n, R]."""
    replicates = x.shape[1]
    flat = x.astype(np.int64) + categories * np.arange(replicates)
    each = None if weights is None else np.broadcast_to(weights.reshape(len(x), -1), x.shape).ravel()
    return np.bincount(flat.ravel(), each, minlength=replicates * categories).reshape(replicates, categories)


def truth_of(spec: Any) -> np.ndarray:
    """The true frequencies: [C]."""
    ranks = np.arange(1, spec.categories + 1, dtype=np.float64)
    p = ranks**-spec.exponent if spec.truth == "zipf" else np.ones(spec.categories)
    return p / p.sum()


class Categorical(Exact):
    """Frequencies p [R, C]; sampling at temperature T divides log-odds by T."""

    p: np.ndarray

    @classmethod
    def truth(cls, spec: Any, seeds: list[int]) -> np.ndarray:
        p = np.broadcast_to(truth_of(spec), (spec.replicates, spec.categories))
        return pick(p, uniforms(seeds, spec.replicates))[..., None].astype(np.float64)

    def fit(
        self, records: np.ndarray, labels: np.ndarray | None = None, weights: np.ndarray | None = None
    ) -> None:
        self.p = count(records[..., 0], self.spec.categories, weights) / len(records)

    def sample(self, labels: np.ndarray | None, seeds: list[int], how: Sample) -> np.ndarray:
        p = (self.p / self.p.max(1, keepdims=True)) ** (
            1 / self.spec.temperature
        )  # so that not every power underflows
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
