"""The bootstrap memoriser: its samples are copies of training images, drawn with replacement.

It obeys the trace-ratio law for any feature extractor, so it proves store, regimes, features and measures on
real images without training (the extreme of the memorisation that Shi et al. 2509.16499 describe).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflab.config import Sample
from difflab.core.files import read_tensors, write_tensors
from difflab.core.seeds import numpy_generator
from difflab.core.shape import Shape
from difflab.models.family import ClosedForm


class Memoriser(ClosedForm):
    """Keeps its training images; unconditional, so its samples carry no label."""

    images: np.ndarray  # uint8 [n, H, W, C]
    shares: np.ndarray | None = None  # of each image among the samples, float64 [n]; None = all alike

    def fit(self, records: np.ndarray, labels: np.ndarray | None, weights: np.ndarray | None = None) -> None:
        self.images, self.shares = records, None if weights is None else weights / weights.sum()

    def sample(self, labels: np.ndarray | None, seeds: list[int], how: Sample) -> np.ndarray:
        picks = np.array([numpy_generator(seed).choice(len(self.images), p=self.shares) for seed in seeds])
        return self.images[picks]

    def save(self, folder: Path) -> None:
        shares = {} if self.shares is None else {"shares": torch.from_numpy(self.shares)}
        write_tensors(folder / "memoriser.safetensors", {"images": torch.from_numpy(self.images), **shares})

    @classmethod
    def load(cls, spec: Any, shape: Shape, folder: Path) -> Memoriser:
        model = cls(spec, shape)
        tensors = read_tensors(folder / "memoriser.safetensors")
        model.images = tensors["images"].numpy()
        model.shares = tensors["shares"].numpy() if "shares" in tensors else None
        return model
