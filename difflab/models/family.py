"""The interface of every model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from difflab.config import Sample
from difflab.core.shape import Shape


class Family(ABC):
    """A generative model that is fitted to a training set, sampled, saved to a folder and loaded again."""

    def __init__(self, spec: Any, shape: Shape):
        self.spec, self.shape = spec, shape

    @abstractmethod
    def sample(self, conditions: np.ndarray | None, seeds: list[int], how: Sample) -> np.ndarray:
        """Draw one record per seed: [n, *record].

        Image i depends on its seed, its condition and the batch size alone.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model; weights as safetensors."""

    @classmethod
    @abstractmethod
    def load(cls, spec: Any, shape: Shape, folder: Path) -> Family:
        """Read what `save` wrote. Raises StoreError when it is damaged."""


class ClosedForm(Family):
    """A family that is fitted by a formula instead of by gradient descent."""

    @abstractmethod
    def fit(self, records: np.ndarray, labels: np.ndarray | None, weights: np.ndarray | None = None) -> None:
        """Fit the model to a training set.

        Args:
            records: [n, *record].
            labels: int64 [n], or None.
            weights: weight of each record, float64 [n], or [n, R] where each chain has its own; with mean 1
                in each chain; None = equal weights.
        """


class Exact(ClosedForm):
    """A family with exact laws. Its records are float64 [R, d]: R independent chains side by side."""

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

        It is that of the frequencies, or of the means, averaged over dimensions.
        """
