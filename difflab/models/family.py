"""The interface of every model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.core.shape import Shape
from difflab.core.size import setting_text


class Family(ABC):
    """A generative model that is fitted to a training set, sampled, saved to a folder and loaded again.

    Args:
        spec: the section `model` of a config.
        shape: the shape of a record and the number of classes or captions.
    """

    def __init__(self, spec: Any, shape: Shape):
        self.spec, self.shape = spec, shape

    @abstractmethod
    def sample(self, conditions: np.ndarray | None, seeds: list[int], sampling: Sample) -> np.ndarray:
        """Draw one record per seed: [n, *record].

        Record i depends only on its seed, its condition and the batch size.

        Args:
            conditions: class labels or positions of captions, int64 [n]; None = unconditional.
            seeds: n seeds.
            sampling: the section `sample` of a config.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model to `folder`, with its weights as safetensors."""

    @classmethod
    @abstractmethod
    def load(cls, spec: Any, shape: Shape, folder: Path) -> Family:
        """Read a model that `save` wrote. Raises StoreError if it is damaged."""


class ClosedForm(Family):
    """A family that is fitted by a formula instead of by gradient descent."""

    @abstractmethod
    def fit(self, records: np.ndarray, labels: np.ndarray | None, weights: np.ndarray | None = None) -> None:
        """Fit the model to a training set.

        Args:
            records: [n, *record].
            labels: int64 [n], or None.
            weights: weight of each record, float64 [n], or [n, R] if the chains have different weights. Their
                mean is 1 in each chain. None = equal weights.
        """


class Exact(ClosedForm):
    """A family whose chains follow exact laws. A record is float64 [R, d]: one sample of each of R chains."""

    @classmethod
    @abstractmethod
    def truth(cls, spec: Any, seeds: list[int]) -> np.ndarray:
        """Draw real records from the known distribution: [n, R, d]."""

    @abstractmethod
    def measures(self) -> dict[str, np.ndarray]:
        """Quantities of the fitted model that the exact laws predict, for each chain: name -> [R]."""

    @abstractmethod
    def apart(self, other: Any) -> np.ndarray:
        """Squared distance to another model of the family, for each chain: [R].

        It is the squared distance between the frequencies, or the mean over dimensions of that between the
        means.
        """


def check_divisible(shape: Shape, factor: int, why: str) -> None:
    """Raise ConfigError if a side of the images of `shape` is not a multiple of `factor`.

    The message says `why` and names the nearest valid size.
    """
    for size in shape.all_sizes:
        if any(side % factor for side in size):
            height, width = (max(factor, round(side / factor) * factor) for side in size)
            where, use = (
                f"data.image_size={setting_text(size)}",
                f"data.image_size={setting_text((height, width))}",
            )
            if shape.sizes:
                where, use = f"data.buckets: {list(size)}", f"{[height, width]}"
            raise ConfigError(f"{where} is not a multiple of {factor}, {why}; use {use}")
