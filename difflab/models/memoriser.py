"""A model whose samples are copies of training images, drawn with replacement (a bootstrap).

It is the extreme case of the memorisation that Shi et al. 2509.16499 describe. It obeys the trace-ratio law
for any feature extractor. It therefore tests storage, regimes, features and measures on real images without
training.
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
    """Family ``memoriser``: it stores its training images. It is unconditional: samples have no label."""

    images: np.ndarray  # uint8 [n, H, W, C]
    shares: np.ndarray | None = None  # probability of drawing each image, float64 [n]; None = equal

    def fit(self, records: np.ndarray, labels: np.ndarray | None, weights: np.ndarray | None = None) -> None:
        self.images, self.shares = records, None if weights is None else weights / weights.sum()

    def sample(self, labels: np.ndarray | None, seeds: list[int], sampling: Sample) -> np.ndarray:
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
