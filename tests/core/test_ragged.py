"""Images of several sizes in one array, and in one file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from difflab.core.ragged import Ragged, by_size, each_size, largest_side, mapped, save, together

SIZES = [(2, 3), (4, 2), (2, 3), (5, 5), (4, 2)]


def images(sizes=SIZES) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_images_of_one_size_are_an_ordinary_array():
    made = together(images([(2, 3)] * 4))
    assert made.shape == (4, 2, 3, 3) and made.dtype == np.uint8
    assert np.array_equal(made, np.stack(images([(2, 3)] * 4)))


def test_images_of_several_sizes_keep_their_pixels_and_are_no_tensor():
    made = together(images())
    assert made.shape == (5,) and [image.shape[:2] for image in made] == SIZES
    assert all(np.array_equal(a, b) for a, b in zip(made, images(), strict=True))
    assert [image.shape[:2] for image in made[np.array([3, 0])]] == [(5, 5), (2, 3)]
    assert largest_side(made) == 5
    with pytest.raises(TypeError, match="object_"):
        torch.from_numpy(made)


def test_by_size_gives_every_image_once():
    parts = list(by_size(together(images())))
    assert [positions.tolist() for positions, _ in parts] == [[0, 2], [1, 4], [3]]
    for positions, part in parts:
        assert all(np.array_equal(part[k], images()[i]) for k, i in enumerate(positions))


def test_each_size_puts_results_back_in_order():
    features = each_size(together(images()), lambda part: part.reshape(len(part), -1).sum(1, keepdims=True))
    assert features.tolist() == [[int(image.sum())] for image in images()]
    smaller = each_size(together(images()), lambda part: part[:, ::2, ::2])
    assert all(np.array_equal(a, b[::2, ::2]) for a, b in zip(smaller, images(), strict=True))
    assert each_size(np.stack(images([(2, 3)] * 2)), lambda part: part[..., 0]).shape == (2, 2, 3)


@pytest.mark.parametrize("sizes", [SIZES, [(2, 3)] * 3])
def test_a_file_gives_the_same_images_back(sizes, tmp_path):
    save(tmp_path / "00000.npy", together(images(sizes)))
    back = mapped(tmp_path / "00000.npy")
    assert isinstance(back, Ragged) == (len(set(sizes)) > 1)
    for i in (2, 0, len(sizes) - 1):
        assert np.array_equal(back[i], images(sizes)[i])
