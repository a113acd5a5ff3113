"""Near copies are found whatever way they were made, and unrelated images are not called so."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from pictures import pictures
from PIL import Image

from difflab.config import Data
from difflab.data.near_copies import near_copies, near_copies_within, square_thumbnail, thumbnails
from difflab.data.registry import open_source


def stack(n: int, side: int = 48, seed: int = 0) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures(n, side, seed)])


def each(pixels: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in pixels])


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def there_and_back(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    return image.resize((round(width * share), round(height * share)), Image.Resampling.LANCZOS).resize(
        (width, height), Image.Resampling.BICUBIC
    )


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "equal": lambda x: x.copy(),
    "noise": lambda x: (x + np.random.default_rng(1).integers(-1, 2, x.shape)).clip(0, 255).astype(np.uint8),
    "brighter": lambda x: np.minimum(x, 254) + 1,
    "jpeg 90": lambda x: each(x, lambda image: as_jpeg(image, 90)),
    "jpeg 75": lambda x: each(x, lambda image: as_jpeg(image, 75)),
    "resized": lambda x: each(x, lambda image: there_and_back(image, 0.5)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("side", [24, 48, 96])
def test_images_that_were_saved_again_resized_or_lightened_are_found_where_they_are(change, side):
    of = stack(60, side)
    found = near_copies(thumbnails(CHANGES[change](of[20:40])), thumbnails(of))
    assert found.tolist() == list(range(20, 40))


def real(name: str) -> np.ndarray:
    source = open_source(Data(source=name), 0)
    order = np.random.default_rng(0).permutation(len(source))[:1600]
    return np.stack([source.read(int(i)) for i in order])


@pytest.mark.parametrize("name", ["digits", "mnist5k"])
def test_unrelated_images_of_one_kind_are_no_near_copies_however_alike(name):
    small = thumbnails(real(name))
    half = len(small) // 2
    assert (near_copies(small[:half], small[half:]) < 0).all() and (near_copies_within(small) < 0).all()
    changed = (small[:50].astype(int) + 1).clip(0, 255).astype(np.uint8)
    assert near_copies(changed, small).tolist() == list(range(50))


def test_flat_images_and_one_moved_part_are_told_apart():
    """Flat images of nearly one grey level have nothing to be known by. One changed corner is content."""
    rng = np.random.default_rng(0)
    flat = (128 + rng.integers(0, 2, (40, 32, 32, 3))).astype(np.uint8)
    assert (near_copies(flat[:20], flat[20:]) < 0).all()
    of = stack(60, 32)
    moved = of.copy()
    moved[:, :4, :4] ^= 64
    assert (near_copies(moved, of) < 0).all()
    assert np.abs(moved.astype(float) - of).mean() < 2


def test_mirrored_and_other_pictures_are_not_found():
    of = stack(60)
    assert (near_copies(np.ascontiguousarray(of[:, :, ::-1]), of) < 0).all()
    assert (near_copies(stack(60, seed=9), of) < 0).all()


def test_within_a_set_an_image_is_not_its_own_copy_and_equal_ones_are_left_to_their_content():
    of = stack(30)
    both = np.concatenate([of, of[:1], CHANGES["noise"](of[10:20])])
    found = near_copies_within(both)
    assert found[31:].tolist() == list(range(10, 20)) and found[10:20].tolist() == list(range(31, 41))
    assert (found[:10] < 0).all() and (found[20:31] < 0).all()
    assert (near_copies_within(both, 5) < 0).all()
    assert near_copies_within(of[:1]).tolist() == [-1]


@pytest.mark.parametrize("shape", [(0, 8, 8, 1), (1, 8, 8, 1), (3, 1, 1, 1), (3, 5, 7, 3), (3, 40, 3, 1)])
def test_no_few_small_and_oblong_images_are_read(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    small = thumbnails(images)
    assert small.shape == (shape[0], min(32, shape[1]), min(32, shape[2]), shape[3])
    assert near_copies(small, small).tolist() == list(range(shape[0]))
    assert near_copies(small, small[:0]).tolist() == [-1] * shape[0]


def test_images_of_two_shapes_are_an_error():
    with pytest.raises(ValueError, match="one shape"):
        near_copies(np.zeros((2, 8, 8, 1), np.uint8), np.zeros((2, 8, 8, 3), np.uint8))


def test_a_thumbnail_is_the_mean_of_its_pixels():
    """Rounded along rows and again along columns: off by at most one grey level."""
    images = stack(3, 64)
    expected = images.reshape(3, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(thumbnails(images) - expected).max() <= 1
    grey = images[..., :1]
    assert np.abs(thumbnails(grey) - expected[..., :1]).max() <= 1


def test_a_square_thumbnail_does_not_depend_on_the_size_of_the_file():
    large = np.asarray(Image.fromarray(stack(1, 96)[0]).resize((96, 64)))
    small = np.asarray(Image.fromarray(large).resize((48, 40), Image.Resampling.BOX))
    thumbs = np.stack([square_thumbnail(image) for image in (large, small)])
    assert thumbs.shape == (2, 32, 32, 3) and np.abs(thumbs[0].astype(float) - thumbs[1]).mean() < 4
    assert square_thumbnail(np.zeros((5, 3, 1), np.uint8)).shape == (32, 32, 1)
