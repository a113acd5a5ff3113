from __future__ import annotations

import numpy as np
import pytest
from made import NUMBERS, candidates, checked, config, kept

from difflab.core.errors import ConfigError

VALUES = np.array([0.0, 0.7, 1.5])


def drawn(temperature: float, times: int = 150) -> np.ndarray:
    """How often each of three is the one that is kept."""
    images = VALUES.reshape(-1, 1, 1)
    entry = {"policy": "luce", "k": 3, "reward": "value", "temperature": temperature}
    picks = [kept(entry, *candidates(images=images, base=NUMBERS, generation=t)) for t in range(times)]
    assert all(len(pick) == 1 for pick in picks)
    return np.bincount(np.concatenate(picks), minlength=3)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_one_is_kept_in_proportion_to_the_exponential_of_its_reward(temperature):
    p = np.exp(VALUES / temperature)
    p /= p.sum()
    assert np.abs((drawn(temperature) - 150 * p) / np.sqrt(150 * p * (1 - p))).max() < 4


def test_cold_it_is_the_best_of_k_and_hot_a_random_one():
    assert drawn(1e-3, 40).tolist() == [0, 0, 40]
    assert np.abs(drawn(1e6, 90) - 30).max() < 4 * np.sqrt(90 * 2 / 9)


def test_its_bad_input_is_that_of_best_of():
    with pytest.raises(ConfigError, match=r"'temperature'.*greater than 0"):
        config({"policy": "luce", "k": 2, "reward": "brightness", "temperature": 0.0})
    with pytest.raises(ConfigError, match="unknown reward"):
        config({"policy": "luce", "k": 2, "reward": "x"})
    with pytest.raises(ConfigError, match="luce keeps one of 60 samples, but a generation has only 50"):
        checked({"policy": "luce", "k": 60, "reward": "brightness"}, sample={"count": 50})
