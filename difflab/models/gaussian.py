"""A normal distribution that is fitted, sampled and fitted again to its samples.

Sources: Shumailov et al. 2305.17493; Alemohammad et al. 2307.01850, App. A.
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
        "variance",
        unit="squared data units",
        better="real",
        about="Variance of the fitted distribution, mean over its dimensions.",
        **_CHAINS,
    ),
    RowKind(
        "squared_drift",
        unit="squared data units",
        better="lower",
        about="Squared distance between the fitted mean and the true mean, mean over the dimensions.",
        **_CHAINS,
    ),
    RowKind(
        "log_variance",
        unit="nats",
        better="real",
        about="Natural logarithm of the fitted variance, in one dimension.",
        **_CHAINS,
    ),
    RowKind(
        "sd",
        unit="data units",
        better="real",
        about="Standard deviation of the fitted distribution, in one dimension.",
        title="standard deviation",
        **_CHAINS,
    ),
    RowKind(
        "w2_squared",
        unit="squared data units",
        better="lower",
        about="Squared Wasserstein-2 distance between the fitted and the true normal distribution, "
        "in one dimension.",
        title="squared Wasserstein-2 distance",
        **_CHAINS,
    ),
)


def normals(seeds: list[int], *shape: int) -> np.ndarray:
    """Standard normal numbers, from one random stream per seed: [n, *shape]."""
    return np.stack([numpy_generator(seed).standard_normal(shape) for seed in seeds])


def counted(weights: np.ndarray | None, records: np.ndarray) -> np.ndarray | float:
    """Reshape weights [n] or [n, R] so that they can be multiplied with records [n, R, d]; 1 for None."""
    return 1.0 if weights is None else weights.reshape(len(records), -1, 1)


class Gaussian(Exact):
    """Family ``gaussian``: one normal distribution N(mean, cov) for each of R chains.

    The true distribution is N(0, I). Samples are drawn from N(mean, sampling_bias * cov).
    """

    mean: np.ndarray  # [R, d]
    cov: np.ndarray  # [R, d, d]

    @classmethod
    def truth(cls, spec: Any, seeds: list[int]) -> np.ndarray:
        return normals(seeds, spec.replicates, spec.dim)

    def fit(
        self, records: np.ndarray, labels: np.ndarray | None = None, weights: np.ndarray | None = None
    ) -> None:
        w = counted(weights, records)
        self.mean = (w * records).mean(0)
        centred = records - self.mean
        n = len(records) - (self.spec.estimator == "unbiased")
        self.cov = np.einsum("nri,nrj->rij", w * centred, centred, optimize=True) / n

    def sample(self, labels: np.ndarray | None, seeds: list[int], sampling: Sample) -> np.ndarray:
        z = normals(seeds, *self.mean.shape)
        # The symmetric root by eigh exists for singular covariances too, which long chains have.
        values, vectors = np.linalg.eigh(self.cov)
        root = vectors * np.sqrt(np.clip(values, 0, None) * self.spec.sampling_bias)[:, None, :]
        return self.mean + np.einsum("rij,nrj->nri", root, z, optimize=True)

    def measures(self) -> dict[str, np.ndarray]:
        d = self.spec.dim
        variance = np.trace(self.cov, axis1=1, axis2=2) / d
        drift = (self.mean**2).mean(1)
        out = {"variance": variance, "squared_drift": drift}
        if d == 1:
            out |= {
                "log_variance": np.log(variance, where=variance > 0, out=np.full_like(variance, -np.inf)),
                "sd": np.sqrt(variance),
                "w2_squared": drift + (1 - np.sqrt(variance)) ** 2,
            }
        return out

    def apart(self, other: Gaussian) -> np.ndarray:
        return ((self.mean - other.mean) ** 2).mean(1)

    def save(self, folder: Path) -> None:
        write_tensors(
            folder / "gaussian.safetensors",
            {"mean": torch.from_numpy(self.mean), "cov": torch.from_numpy(self.cov)},
        )

    @classmethod
    def load(cls, spec: Any, shape: Shape, folder: Path) -> Gaussian:
        model, tensors = cls(spec, shape), read_tensors(folder / "gaussian.safetensors")
        model.mean, model.cov = tensors["mean"].numpy(), tensors["cov"].numpy()
        return model
