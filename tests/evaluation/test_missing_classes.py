"""Classes that no sample shows: more than chance, and not for chance."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from difflab.evaluation.missing_classes import at_least, missing_classes
from difflab.evaluation.readings import Images


def test_many_absent_classes_are_more_than_chance_though_none_is_by_itself():
    """Forty classes with 8 of 400 real images each: one without a sample of 200 has p = (2 / 3)^8 = 0.04."""
    pixels = np.zeros((200, 8, 8, 1), np.uint8)
    labels = np.arange(200) % 40
    real = SimpleNamespace(reference=Images(pixels, labels), other=Images(pixels[:120], labels[:120]))
    assert np.bincount(np.concatenate([real.reference.labels, real.other.labels])).tolist() == [8] * 40
    eight = Images(pixels, np.arange(200) % 8)
    assert missing_classes(real, eight).tolist() == list(range(8, 40))
    all_but_two = Images(pixels, np.arange(200) % 38)
    assert missing_classes(real, all_but_two).tolist() == []


@pytest.mark.parametrize("count", [0, 3, 9])
def test_the_number_of_absent_classes_by_chance_is_that_of_draws(count):
    p = np.linspace(0.05, 0.6, 12)
    drawn = (np.random.default_rng(0).random((20000, 12)) < p).sum(1)
    assert at_least(count, p) == pytest.approx((drawn >= count).mean(), abs=0.011)


def test_healthy_samples_of_forty_unequal_classes_miss_no_class(digits):
    """Rare classes may have no sample by luck. Digits are split into 40 classes of very different sizes."""
    rng = np.random.default_rng(0)
    share = np.arange(1, 41) / np.arange(1, 41).sum()
    alarms = 0
    for _ in range(40):
        labels = [rng.choice(40, 200, p=share) for _ in range(3)]
        real = SimpleNamespace(
            reference=Images(digits["reference"].pixels[:200], labels[0]),
            other=Images(digits["other"].pixels[:200], labels[1]),
        )
        alarms += len(missing_classes(real, Images(digits["other"].pixels[:200], labels[2]))) > 0
    assert alarms <= 2


def test_a_class_that_no_sample_shows_is_missing_if_it_is_common(digits):
    real = SimpleNamespace(reference=digits["reference"], other=digits["other"])
    kept = digits["other"][digits["other"].labels != 3]
    assert missing_classes(real, kept).tolist() == [3]


def test_both_halves_of_the_real_images_say_how_common_a_class_is(digits):
    """9 of 100 are too few to say so in one half: its absence among 100 samples has a chance of 2^-9."""

    def half(name: str) -> Images:
        images = digits[name]
        nines, others = np.flatnonzero(images.labels == 9)[:9], np.flatnonzero(images.labels != 9)[:91]
        return images[np.concatenate([nines, others])]

    pool = digits["other"]
    samples = pool[pool.labels != 9][:100]
    real = SimpleNamespace(reference=half("reference"), other=half("other"))
    assert missing_classes(real, samples).tolist() == [9]
