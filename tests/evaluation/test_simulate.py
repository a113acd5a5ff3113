"""Simulated collapse: every kind is a function of its arguments, and mixtures are two kinds at once."""

from __future__ import annotations

import numpy as np
import pytest
from damaged import changed, classes_shown, is_known, n_colours, real_images, sharpness

from difflab.core.errors import DataError
from difflab.evaluation.simulate import HARMLESS, KINDS, parts_of, simulate


@pytest.fixture(scope="module", params=["digits", "emoji"])
def pool(request) -> tuple[np.ndarray, np.ndarray]:
    return real_images(request.param)


def test_every_kind_gives_images_and_classes_and_is_a_function_of_its_seed(pool):
    for name in KINDS:
        if name in ("saturated", "ringing", "blocked") and pool[0].shape[3] == 1:
            continue
        images, labels = changed(name, pool, 0.5)
        assert (
            images.dtype == np.uint8
            and images.shape[1:] == pool[0].shape[1:]
            and labels.shape == (len(images),)
        ), name
        assert len(images) == 200 or name == "fewer", name
        assert set(labels) <= set(pool[1]), name
        again, other = changed(name, pool, 0.5), changed(name, pool, 0.5, seed=1)
        assert np.array_equal(images, again[0]) and np.array_equal(labels, again[1]), name
        assert not np.array_equal(images, other[0]), name
    assert set(HARMLESS) <= set(KINDS)


def test_a_mixture_is_both_kinds_in_either_order(pool):
    images, labels = changed("blurred+swapped", pool, 0.6)
    again = changed("swapped+blurred", pool, 0.6)
    assert np.array_equal(images, again[0]) and np.array_equal(labels, again[1])
    plain = changed("swapped", pool, 0.6)
    assert sharpness(images) < 0.8 * sharpness(plain[0])
    assert np.bincount(labels).tolist() == np.bincount(plain[1]).tolist()  # the same labels, in another order


def test_the_choice_of_images_comes_before_labels_and_look(pool):
    images, labels = changed("permuted+tails_cut", pool, 1.0, 100)
    cut, _ = changed("tails_cut", pool, 1.0, 100)
    assert {x.tobytes() for x in images} == {x.tobytes() for x in cut}
    assert is_known(pool, images).all() and (classes_shown(pool, images) != labels).mean() > 0.9
    images, labels = changed("posterised+dropped", pool, 1.0, 100)
    assert max(n_colours(image) for image in images) <= 4
    assert len(set(labels)) <= len(set(changed("dropped", pool, 1.0, 100)[1]))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blurred+sharpened", "mixes two changes of detail"),
        ("swapped+permuted", "mixes two changes of labels"),
        ("blurred+blurred", "mixes two changes of detail"),
        ("blurred+nothing", "nothing cannot be mixed; kinds that can: tails_cut"),
        ("copied+swapped", "copied cannot be mixed"),
        ("one_class_blurred+swapped", "one_class_blurred cannot be mixed"),
        ("blurred+swapped+shrunk", "mixes 3 kinds"),
        ("blurred+colapse", "no simulated change 'colapse'"),
        ("blurred+", "no simulated change ''"),
    ],
)
def test_mixtures_that_make_no_sense(name, said):
    with pytest.raises(DataError, match=said):
        parts_of(name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "collapse"}, "no simulated change 'collapse'; known: nothing"),
        ({"degree": 0}, "degree is 0"),
        ({"degree": 1.1}, "degree is 1.1"),
        ({"count": 7}, "6 images are left to draw 7 from"),
        ({"labels": np.zeros(5, int)}, "labels"),
        ({"images": np.zeros((6, 8, 8, 3))}, "uint8"),
        ({"name": "copied"}, r"train=\(images, labels\)"),
        ({"name": "dropped", "labels": np.zeros(6, int)}, "at least 2 classes"),
        ({"name": "blended", "labels": np.zeros(6, int)}, "at least 2 classes"),
        ({"name": "swapped", "labels": np.zeros(6, int)}, "at least 2 classes"),
    ],
    ids=str,
)
def test_what_cannot_be_simulated(arguments, said):
    given = {
        "name": "nothing",
        "images": np.zeros((6, 8, 8, 3), np.uint8),
        "labels": np.array([0, 0, 0, 1, 1, 1]),
        "degree": 0.5,
        "count": 4,
    }
    with pytest.raises(DataError, match=said):
        simulate(**(given | arguments))
