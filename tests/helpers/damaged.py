"""Real images to damage, and what several tests of simulated damages measure."""

from __future__ import annotations

import numpy as np

from difflab.config import Data
from difflab.data.registry import open_source
from difflab.evaluation.simulate import simulate

DEGREES = (0.2, 0.4, 0.6, 0.8, 1.0)
Labelled = tuple[np.ndarray, np.ndarray]


def real_images(name: str) -> Labelled:
    """1,200 images of a bundled set and their classes."""
    source = open_source(Data(source=name, limit=1200), 0)
    assert source.labels is not None
    return np.stack([source.read(i) for i in range(len(source))]), source.labels


def changed(name: str, pool: Labelled, degree: float, count: int = 200, seed: int = 0) -> Labelled:
    """`simulate` on three quarters of the pool; the first quarter is both the training set and the reference."""
    images, labels = pool
    cut = len(images) // 4
    first = images[:cut], labels[:cut]
    return simulate(name, images[cut:], labels[cut:], degree, count, seed, first, first)


def is_known(pool: Labelled, images: np.ndarray) -> np.ndarray:
    """bool [n]: whether an image is one of the pool, bit for bit."""
    real = {x.tobytes() for x in pool[0]}
    return np.array([x.tobytes() in real for x in images])


def classes_shown(pool: Labelled, images: np.ndarray) -> np.ndarray:
    """The class of each image in the pool; -1 = not an image of the pool."""
    by_image = {x.tobytes(): c for x, c in zip(*pool, strict=True)}
    return np.array([by_image.get(x.tobytes(), -1) for x in images])


def sharpness(images: np.ndarray) -> float:
    return float(np.abs(np.diff(images.astype(float), axis=1)).mean())


def n_colours(image: np.ndarray) -> int:
    return len(np.unique(image.reshape(-1, image.shape[2]), axis=0))
