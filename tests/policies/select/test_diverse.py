from __future__ import annotations

import numpy as np
import pytest
from made import NUMBERS, UNCONDITIONAL, candidates, checked, config, kept, reasons

from difflab.core.errors import ConfigError

REAL = [[0.0], [10.0], [20.0], [30.0]]
FAKE = [
    [1.0],
    [-2.0],
    [0.5],
    [11.0],
    [19.0],
    [21.0],
    [0.1],
]  # four near the first, one near the second, two near the third


def test_no_neighbourhood_of_a_real_image_keeps_more_than_k():
    at, all_ = candidates(FAKE, REAL)
    for k, size in ((1, 3), (2, 5), (3, 6), (4, 7)):
        left = kept({"policy": "diverse", "k": k}, at, all_)
        assert len(left) == size and {3} <= set(left)
    why = reasons({"policy": "diverse", "k": 1}, at, all_)
    assert set(filter(None, why)) == {
        f"1 others of the neighbourhood of real image {i} are kept" for i in (0, 2)
    }


def test_by_chance_or_by_reward():
    drawn = {
        tuple(kept({"policy": "diverse", "k": 1}, *candidates(FAKE, REAL, generation=t))) for t in range(60)
    }
    assert drawn == {tuple(sorted((i, 3, j))) for i in (0, 1, 2, 6) for j in (4, 5)}
    at, all_ = candidates(FAKE, REAL)
    assert kept({"policy": "diverse", "k": 1, "reward": "likeness"}, at, all_) == [
        3,
        4,
        6,
    ]  # of equals the first
    assert kept({"policy": "diverse", "k": 2, "reward": "likeness", "lowest": True}, at, all_) == [
        0,
        1,
        3,
        4,
        5,
    ]


def test_by_class_and_by_prompt():
    images = np.zeros((6, 8, 8, 1), dtype=np.uint8)
    images[:] = np.array([5, 9, 1, 2, 7, 3]).reshape(-1, 1, 1, 1)
    entry = {"policy": "diverse", "k": 2, "reward": "brightness"}
    at, all_ = candidates(images=images, labels=[0, 0, 0, 0, 1, 2])
    assert kept({**entry, "per": "class"}, at, all_) == [0, 1, 4, 5]
    at, all_ = candidates(images=images, prompts=["a seal"] * 5 + ["a cat"])
    assert kept({**entry, "per": "prompt"}, at, all_) == [1, 4, 5]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="'k'"):
        config({"policy": "diverse", "k": 0})
    with pytest.raises(ConfigError, match="unknown reward"):
        config({"policy": "diverse", "k": 1, "reward": "x"})
    with pytest.raises(ConfigError, match="are numbers"):
        checked({"policy": "diverse", "k": 1}, base=NUMBERS)
    with pytest.raises(ConfigError, match="have no requested class; use per: real"):
        checked({"policy": "diverse", "k": 1, "per": "class"}, base=UNCONDITIONAL)
    with pytest.raises(ConfigError, match="extracts features only if it has measures"):
        checked({"policy": "diverse", "k": 1}, measure={"extractors": [], "metrics": []})
    checked({"policy": "diverse", "k": 1, "per": "class"}, measure={"extractors": [], "metrics": []})
