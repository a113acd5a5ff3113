from __future__ import annotations

import numpy as np
import pytest
from made import NUMBERS, candidates, checked, config, kept

from difflab.core.errors import ConfigError


def test_the_highest_rewards_are_kept_and_of_equal_ones_the_first():
    values = np.array([2.0, 5, 1, 5, 4, 0, 5, 3, 2, 1])
    at, all_ = candidates(images=values.reshape(-1, 1, 1), base=NUMBERS)
    entry = {"policy": "top_share", "reward": "value"}
    assert kept({**entry, "share": 0.4}, at, all_) == [1, 3, 4, 6]
    assert kept({**entry, "count": 2}, at, all_) == [1, 3]
    assert kept({**entry, "share": 0.15, "lowest": True}, at, all_) == [2, 5]
    assert kept({**entry, "share": 1.0}, at, all_) == list(range(10))


def test_of_each_class():
    images = np.zeros((9, 8, 8, 3), dtype=np.uint8)
    images[:] = np.array([1, 2, 3, 10, 20, 30, 100, 110, 120]).reshape(-1, 1, 1, 1)
    at, all_ = candidates(images=images, labels=[0, 1, 2] * 3)
    assert kept({"policy": "top_share", "share": 0.3, "reward": "brightness"}, at, all_) == [6, 7, 8]
    assert kept(
        {"policy": "top_share", "share": 0.6, "reward": "brightness", "within": "class"}, at, all_
    ) == [3, 4, 5, 6, 7, 8]


def test_a_reward_of_features_wants_features():
    entry = {"policy": "top_share", "share": 0.5, "reward": "likeness"}
    checked(entry)
    with pytest.raises(ConfigError, match="extracts features only if it has measures"):
        checked(entry, measure={"metrics": []})
    with pytest.raises(ConfigError, match=r"'inception' is not in measure.extractors"):
        checked({**entry, "reward": "likeness:inception"})
    with pytest.raises(ConfigError, match=r"'share'.*greater than 0"):
        config({**entry, "share": 0})
