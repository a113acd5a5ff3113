from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from difflab import config
from difflab.core.errors import StoreError
from difflab.core.shape import Shape
from difflab.models.memoriser import Memoriser

HOW = config.Sample()
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)


def fitted() -> Memoriser:
    model = Memoriser(config.Memoriser(family="memoriser"), Shape((4, 4, 3), 2))
    model.fit(IMAGES, np.zeros(12, dtype=np.int64))
    return model


def which(images: np.ndarray) -> np.ndarray:
    """Index of the training image that each sample is a copy of."""
    same = (images[:, None] == IMAGES[None]).all((2, 3, 4))
    assert (same.sum(1) == 1).all()
    return same.argmax(1)


def test_samples_are_copies_drawn_uniformly_with_replacement():
    picks = which(fitted().sample(None, list(range(3000)), HOW))
    assert stats.chisquare(np.bincount(picks, minlength=12)).pvalue > 1e-4
    assert abs(np.corrcoef(picks[1:], picks[:-1])[0, 1]) * np.sqrt(3000) < 4


def test_samples_are_bytes_like_the_images():
    out = fitted().sample(None, [1, 2], HOW)
    assert out.dtype == np.uint8 and out.shape == (2, 4, 4, 3)


def test_a_sample_depends_on_its_seed_alone():
    together = fitted().sample(None, list(range(20)), HOW)
    assert (np.concatenate([fitted().sample(None, [s], HOW) for s in range(20)]) == together).all()


def test_saving_is_exact(tmp_path):
    fitted().save(tmp_path)
    read = Memoriser.load(fitted().spec, fitted().shape, tmp_path)
    assert read.images.dtype == np.uint8 and (read.images == IMAGES).all()
    (tmp_path / "memoriser.safetensors").write_bytes(b"")
    with pytest.raises(StoreError, match=r"memoriser\.safetensors"):
        Memoriser.load(fitted().spec, fitted().shape, tmp_path)
