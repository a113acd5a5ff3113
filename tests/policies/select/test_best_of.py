from __future__ import annotations

import numpy as np
import pytest
from made import NUMBERS, UNCONDITIONAL, candidates, checked, kept, reasons

from difflab.core.errors import ConfigError, MeasureError
from difflab.loop.regimes import expected

BEST = {"policy": "best_of", "k": 4, "reward": "value"}


def numbers(values, **more):
    return candidates(images=np.asarray(values, dtype=float).reshape(-1, 1, 1), base=NUMBERS, **more)


def test_of_one_group_the_best_is_kept():
    at, all_ = numbers([3, 1, 9, 5])
    assert kept(BEST, at, all_) == [2]
    assert kept({**BEST, "lowest": True}, at, all_) == [1]
    assert kept({**BEST, "k": 1}, at, all_) == [0, 1, 2, 3]


def test_what_is_kept_is_distributed_as_the_best_of_k():
    rng = np.random.default_rng(0)
    values = rng.random(8000)
    at, all_ = numbers(values)
    best = np.sort(values[kept(BEST, at, all_)])
    assert len(best) == 2000
    assert np.abs(best**4 - (np.arange(2000) + 0.5) / 2000).max() < 1.95 / np.sqrt(
        2000
    )  # Kolmogorov, p = .001
    assert np.abs(best**3 - (np.arange(2000) + 0.5) / 2000).max() > 3 / np.sqrt(2000)


def test_what_is_left_over_of_a_group_is_dropped_and_said_so():
    at, all_ = numbers(range(11))
    why = reasons(BEST, at, all_)
    assert (
        why.count(None) == 2
        and why.count("left over: too few for a group of 4") == 3
        and why.count("another of its 4 was preferred") == 6
    )


def test_equal_rewards_are_kept_at_random():
    drawn = [kept(BEST, *numbers([1, 1, 1, 0], generation=t))[0] for t in range(300)]
    assert (
        np.abs(np.bincount(drawn, minlength=4)[:3] - 100).max() < 4 * np.sqrt(300 * 2 / 9) and 3 not in drawn
    )


def test_samples_of_one_class_are_compared_with_each_other():
    images = np.zeros((12, 8, 8, 1), dtype=np.uint8)
    images[:] = np.arange(12).reshape(-1, 1, 1, 1)
    at, all_ = candidates(images=images, labels=[0] * 4 + [1] * 4 + [2] * 4)
    entry = {"policy": "best_of", "k": 4, "reward": "brightness", "within": "class"}
    assert kept(entry, at, all_) == [3, 7, 11]
    at, all_ = candidates(images=images, prompts=["x", "y"] * 6)
    assert kept({**entry, "k": 6, "within": "prompt"}, at, all_) == [10, 11]


def test_a_class_with_fewer_than_k_is_an_error_instead_of_vanishing():
    at, all_ = candidates(images=np.zeros((7, 8, 8, 1), dtype=np.uint8), labels=[0] * 4 + [1] * 3)
    with pytest.raises(
        ConfigError, match=r"one of 4 samples, but class 'bee' has 3 candidates in generation 1.*within: all"
    ):
        kept({"policy": "best_of", "k": 4, "reward": "brightness", "within": "class"}, at, all_)
    with pytest.raises(ConfigError, match="one of 60 samples, but a generation has only 50"):
        checked({**BEST, "k": 60}, base=NUMBERS, sample={"count": [100, 50]})
    checked({**BEST, "k": 60, "last": 0}, base=NUMBERS, sample={"count": 100})


def test_a_reward_that_is_no_number_names_the_sample():
    at, all_ = numbers([3, 1, np.nan, np.inf])
    with pytest.raises(
        MeasureError, match=r"reward value: sample 2 of generation 1 has the reward nan \(2 of 4"
    ):
        kept(BEST, at, all_)


def test_two_with_different_rewards_follow_each_other():
    both = checked(
        {"policy": "best_of", "k": 2, "reward": "brightness"},
        {"policy": "best_of", "k": 3, "reward": "class_confidence"},
        sample={"count": 100},
    )
    assert expected(both, 0) == 16


@pytest.mark.parametrize(
    ("entry", "more", "message"),
    [
        ({"k": 0}, {}, "'k'.*greater than or equal to 1"),
        (
            {"reward": "beauty"},
            {},
            "unknown reward 'beauty'; .*known: aesthetic, brightness, chance, class_confidence",
        ),
        (
            {},
            {"base": UNCONDITIONAL},
            "reward value needs samples that are one number each, but those of model.family=memoriser are not",
        ),
        (
            {"reward": "brightness"},
            {},
            "reward brightness is computed from images, but the samples of model.family=categorical are numbers",
        ),
        ({}, {"model": {"family": "gaussian", "dim": 2}}, "family=gaussian are not"),
        (
            {},
            {"model": {"family": "categorical", "replicates": 5}},
            "parallel chains share samples; set model.replicates=1",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(entry, more, message):
    with pytest.raises(ConfigError, match=message):
        checked({**BEST, **entry}, **{"base": NUMBERS, **more})
