"""The registry of damages and the helpers that damages share."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from difflab.core.errors import DataError
from difflab.evaluation import simulate
from difflab.evaluation.damage import KINDS, ORDER, TOPICS, Pool, at_least, blend, each, jpeg, noisy


def pool_of(images: np.ndarray, count: int = 2) -> Pool:
    return Pool(images, np.arange(len(images)) % 2, 0.5, count, np.random.default_rng(0))


def test_every_kind_has_a_topic_and_a_docstring():
    assert set(TOPICS) == set(KINDS) and all(damage.__doc__ for damage in KINDS.values())
    assert set(simulate.HARMLESS) == {name for name, topic in TOPICS.items() if topic == "harmless"}
    assert set(TOPICS.values()) - set(ORDER) == {"harmless", "copies", "one class"}


def test_draws_are_different_images_of_the_rows_asked_for():
    pool = pool_of(np.zeros((9, 2, 2, 1), np.uint8), 4)
    assert len(set(pool.draw().tolist())) == 4
    assert sorted(pool.draw(np.array([1, 5, 8]), 3).tolist()) == [1, 5, 8]
    with pytest.raises(DataError, match="3 images are left to draw 4 from"):
        pool.draw(np.array([1, 5, 8]))


def test_classes_are_counted_and_one_class_is_refused():
    pool = pool_of(np.zeros((5, 2, 2, 1), np.uint8))
    assert [part.tolist() for part in pool.classes("x")] == [[0, 1], [3, 2]]
    alone = Pool(pool.images, np.zeros(5, np.int64), 0.5, 2, pool.rng)
    with pytest.raises(DataError, match="merged needs at least 2 classes"):
        alone.classes("merged")


def test_blend_goes_from_one_to_the_other_and_beyond():
    one, other = np.full((1, 1, 1, 1), 100, np.uint8), np.full((1, 1, 1, 1), 200, np.uint8)
    assert [blend(one, other, share).item() for share in (0.0, 0.25, 1.0, 2.0, -0.5, -2.0)] == [
        100,
        125,
        200,
        255,
        50,
        0,
    ]


def test_noise_is_one_level_at_most_and_does_not_wrap():
    images = np.full((1, 50, 50, 1), 255, np.uint8)
    images[:, :25] = 0
    found = noisy(images, np.random.default_rng(0))
    assert set(np.unique(found).tolist()) == {0, 1, 254, 255}


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_changed_by_itself_and_keeps_its_channels(channels):
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 5, channels), dtype=np.uint8)
    flipped = each(images, lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert np.array_equal(flipped, images[:, :, ::-1])


def test_jpeg_loses_more_at_a_lower_quality():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    errors = [np.abs(np.asarray(jpeg(image, q)).astype(int) - np.asarray(image)).mean() for q in (95, 50, 5)]
    assert errors == sorted(errors) and errors[0] > 0


def test_small_images_are_refused_by_the_shorter_side():
    at_least(pool_of(np.zeros((2, 16, 20, 1), np.uint8)), 16, "x")
    with pytest.raises(DataError, match="x needs images of at least 16 pixels a side, these have 12"):
        at_least(pool_of(np.zeros((2, 20, 12, 1), np.uint8)), 16, "x")
