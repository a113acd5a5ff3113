"""The small interface behind which every model family hides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from difflab.config import Sample
from difflab.core.shape import Shape


class Family(ABC):
    """A generative model: fitted to a training set, sampled image by image, saved to a folder and loaded again."""

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
        """Fit to a training set: [n, *record]. `weights`: how much each counts, float64 [n], or [n, R] where chains
        have training sets of their own; with mean 1 in a chain; None = all alike."""


class Exact(ClosedForm):
    """A family with exact laws. Its records are float64 [R, d]: R independent chains side by side."""

    @classmethod
    @abstractmethod
    def truth(cls, spec: Any, seeds: list[int]) -> np.ndarray:
        """Draw real records from the known distribution: [n, R, d]."""

    @abstractmethod
    def measures(self) -> dict[str, np.ndarray]:
        """What the laws speak of, for each chain: name -> [R]. All are measures of the fitted model."""

    @abstractmethod
    def apart(self, other: Any) -> np.ndarray:
        """Squared distance to another model of the family, for each chain: [R].

        Of frequencies, or of the means per dimension.
        """
