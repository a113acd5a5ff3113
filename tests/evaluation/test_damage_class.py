"""Damages to one class: the other classes stay as they were, and the damage is of the kind that its name says."""

from __future__ import annotations

import numpy as np
import pytest
from damaged import changed, classes_shown, is_known, real_images, sharpness

from difflab.core.errors import DataError
from difflab.evaluation.damage_class import ENOUGH, struck_class
from difflab.evaluation.simulate import simulate

NAMES = ["one_class_blurred", "one_class_repeated", "one_class_narrowed", "one_class_replaced"]
COUNT = 300


@pytest.fixture(scope="module", params=["digits", "emoji"])
def pool(request) -> tuple[np.ndarray, np.ndarray]:
    return real_images(request.param)


def damaged(name: str, pool, degree: float, seed: int = 0):
    """Images and labels, and which of them are of the class that the damage is said to change."""
    images, labels = changed(name, pool, degree, COUNT, seed)
    struck = struck_class(pool[1][len(pool[1]) // 4 :], COUNT, seed)
    return images, labels, labels == struck


@pytest.mark.parametrize("name", NAMES)
def test_all_other_classes_are_untouched_and_the_shares_of_classes_too(pool, name):
    images, labels, struck = damaged(name, pool, 0.7)
    assert is_known(pool, images[~struck]).all() and struck.sum() >= ENOUGH / 2
    assert len(np.unique(images[~struck], axis=0)) >= 0.98 * (~struck).sum()  # some emoji are drawn twice
    plain = changed(name, pool, 1e-9, COUNT)
    assert np.array_equal(labels, plain[1])


def test_the_class_is_drawn_from_the_seed_among_the_large_ones():
    labels = np.repeat([0, 1, 2, 3], [500, 300, 150, 50])
    drawn = {struck_class(labels, 100, seed) for seed in range(40)}
    assert drawn == {0, 1} and struck_class(labels, 140) in (0, 1, 2)
    assert {struck_class(labels, 1000, seed) for seed in range(60)} == {0, 1, 2, 3}
    assert struck_class(labels, 30) is None and struck_class(np.zeros(50, int), 50) is None


def test_the_blurred_class_alone_is_less_sharp(pool):
    images, _, struck = damaged("one_class_blurred", pool, 1.0)
    real, _, _ = damaged("one_class_blurred", pool, 1e-9)
    assert sharpness(images[struck]) < 0.6 * sharpness(real[struck])
    assert sharpness(images[~struck]) == pytest.approx(sharpness(real[~struck]))


def test_the_repeated_class_holds_few_images(pool):
    images, _, struck = damaged("one_class_repeated", pool, 1.0)
    spread = np.ptp(images[struck].astype(int), axis=0)
    assert spread.max() <= 2 and len(np.unique(images[struck], axis=0)) > 1


def test_the_narrowed_class_is_real_and_varies_less(pool):
    def variance(images: np.ndarray) -> float:
        return float(images.astype(float).var(0).sum())

    left = []
    for seed in range(5):
        images, _, struck = damaged("one_class_narrowed", pool, 0.7, seed)
        assert (classes_shown(pool, images[struck]) >= 0).all()
        assert len(np.unique(images[struck], axis=0)) >= 0.9 * struck.sum()
        real = changed("one_class_narrowed", pool, 1e-9, COUNT, seed)[0]
        left.append(variance(images[struck]) / variance(real[struck]))
    assert np.mean(left) < 0.85 and max(left) < 1


def test_the_replaced_class_shows_one_other_class():
    pool = real_images("digits")
    for degree in (0.4, 1.0):
        images, labels, struck = damaged("one_class_replaced", pool, degree)
        shown = classes_shown(pool, images)
        wrong = shown != labels
        assert not wrong[~struck].any() and wrong[struck].mean() == pytest.approx(degree, abs=0.03)
        assert len(set(shown[wrong])) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_class_has_to_be_large_enough(pool, name):
    with pytest.raises(
        DataError, match=f"{name} needs two classes, and {ENOUGH} images of one of them among 30"
    ):
        simulate(name, *pool, 0.5, 30)
