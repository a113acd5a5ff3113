"""A mixture of normal components whose samples carry the number of their component.

In a chain the mixture loses components as the family `categorical` loses categories, and the variance of each
component shrinks as in the family `gaussian`. Guidance speeds up both.
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
from difflab.models.categorical import pick
from difflab.models.family import Exact
from difflab.models.gaussian import counted

ROWS = (
    RowKind(
        "within_variance",
        unit="squared data units",
        better="real",
        about="Variance inside the components of the fitted mixture, weighted by their frequencies.",
        topic="Fitted distribution",
        counts="chains",
    ),
)
"""The measures that `gaussian` and `categorical` do not define."""


def centres(spec: Any) -> np.ndarray:
    """The true means of the components, in units of a component's standard deviation: [C]."""
    return spec.spacing * (np.arange(spec.components) - (spec.components - 1) / 2)


def draw(p: np.ndarray, mean: np.ndarray, sd: np.ndarray, seeds: list[int]) -> np.ndarray:
    """Draw records (component, value) [n, R, 2], one per seed.

    Args:
        p: weights of the components, [R, C].
        mean: their means, [R, C].
        sd: their standard deviations, [R, C].
        seeds: n seeds.
    """
    streams = [numpy_generator(seed) for seed in seeds]
    component = pick(p, np.stack([stream.random(len(p)) for stream in streams]))
    z = np.stack([stream.standard_normal(len(p)) for stream in streams])
    rows = np.arange(len(p))
    return np.stack([component.astype(np.float64), mean[rows, component] + sd[rows, component] * z], axis=-1)


def guided(
    p: np.ndarray, mean: np.ndarray, variance: np.ndarray, scale: float, steps: int = 400
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [R, C] of the guided samples of each component.

    Guided samples follow the probability-flow equation

        dx/dt = t (g (x - m) / (v + t^2) + (1 - g) (x - M) / (V + t^2)),    g = scale,

    from noise N(M, t^2) at a large t down to t = 0 (variance exploding, Karras et al. 2206.00364). m and v
    are the mean and variance of the component, M and V those of the whole mixture. The equation is linear in
    x, so it is enough to follow the mean and the standard deviation. Both are integrated in log t by the
    exponential midpoint rule.

    Args:
        p: weights of the components, [R, C].
        mean: their means m, [R, C].
        variance: their variances v, [R, C].
        scale: the guidance scale g.
        steps: number of integration steps.
    """
    overall = (p * mean).sum(1, keepdims=True)
    total = (p * (variance + (mean - overall) ** 2)).sum(1, keepdims=True)
    total = np.where(total > 0, total, 1)
    positive = np.where(variance > 0, variance, total)
    log_start = np.broadcast_to(np.log(1e6 * np.sqrt(total)), mean.shape)
    h = (np.log(1e-3 * np.sqrt(positive)) - log_start) / steps
    offset, deviation = overall - mean, np.exp(log_start)  # the offset is relative to the component's mean
    for k in range(steps):
        t2 = np.exp(2 * (log_start + (k + 0.5) * h))
        rate_of_whole = (1 - scale) * t2 / (total + t2)
        half = np.exp(h / 2 * (scale * t2 / (positive + t2) + rate_of_whole))
        offset = half * (half * offset + h * rate_of_whole * (mean - overall))
        deviation = half * half * deviation
    # A component of variance 0 keeps its mean and its variance.
    return mean + np.where(variance > 0, offset, 0), np.where(variance > 0, deviation, 0)


class Mixture(Exact):
    """Family ``mixture``: weights, means and variances of C components, for each of R chains.

    They are fitted by maximum likelihood to samples that carry the number of their component. The true
    mixture has equal weights and unit variances.
    """

    p: np.ndarray  # weights of the components, [R, C]
    mean: np.ndarray  # [R, C]
    variance: np.ndarray  # [R, C]

    @classmethod
    def truth(cls, spec: Any, seeds: list[int]) -> np.ndarray:
        shape = (spec.replicates, spec.components)
        return draw(
            np.full(shape, 1 / spec.components), np.broadcast_to(centres(spec), shape), np.ones(shape), seeds
        )

    def fit(
        self, records: np.ndarray, labels: np.ndarray | None = None, weights: np.ndarray | None = None
    ) -> None:
        member = (records[..., :1] == np.arange(self.spec.components)) * counted(
            weights, records
        )  # [n, R, C]
        counts = member.sum(0)
        divisor = np.where(counts > 0, counts, 1)
        value = records[..., 1:]
        self.p = counts / len(records)
        self.mean = (member * value).sum(0) / divisor
        self.variance = (member * (value - self.mean) ** 2).sum(0) / divisor

    def sample(self, labels: np.ndarray | None, seeds: list[int], sampling: Sample) -> np.ndarray:
        mean, sd, scale = self.mean, np.sqrt(self.variance), self.spec.guidance_scale
        if scale != 1:
            mean, sd = guided(self.p, self.mean, self.variance, scale)
        return draw(self.p, mean, sd, seeds)

    def measures(self) -> dict[str, np.ndarray]:
        overall = (self.p * self.mean).sum(1)
        total = (self.p * (self.variance + self.mean**2)).sum(1) - overall**2
        return {
            "survivors": (self.p > 0).sum(1).astype(np.float64),
            "gini_simpson": 1 - (self.p**2).sum(1),
            "variance": total,
            "squared_drift": overall**2,
            "within_variance": (self.p * self.variance).sum(1),
        }

    def apart(self, other: Mixture) -> np.ndarray:
        return ((self.p - other.p) ** 2).sum(1)

    def save(self, folder: Path) -> None:
        tensors = {"p": self.p, "mean": self.mean, "variance": self.variance}
        write_tensors(folder / "mixture.safetensors", {k: torch.from_numpy(v) for k, v in tensors.items()})

    @classmethod
    def load(cls, spec: Any, shape: Shape, folder: Path) -> Mixture:
        model, tensors = cls(spec, shape), read_tensors(folder / "mixture.safetensors")
        model.p, model.mean, model.variance = (tensors[k].numpy() for k in ("p", "mean", "variance"))
        return model
