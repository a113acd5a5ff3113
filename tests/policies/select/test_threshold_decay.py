from __future__ import annotations

import numpy as np
import pytest
import torch
from made import candidates, config, kept

from difflab.core.errors import ConfigError
from difflab.policies.select.threshold_decay import threshold_decay


def naive(x: np.ndarray, n: int, tau: float, decay: float) -> tuple[list[int], float]:
    """The filter as the paper describes it, pass by pass."""
    pool: list[int] = []
    rest = list(range(len(x)))
    while True:
        left = []
        for i in rest:
            if all(np.linalg.norm(x[i] - x[j]) > tau for j in pool):
                pool.append(i)
            else:
                left.append(i)
            if len(pool) == n:
                return pool, tau
        rest, tau = left, tau * decay


@pytest.mark.parametrize(("tau", "decay"), [(5.0, 0.95), (0.5, 0.8), (100.0, 0.3), (1e-6, 0.5)])
def test_it_is_the_filter_written_down_once_more(tau, decay):
    x = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    chosen, last = naive(x.astype(float), 25, tau, decay)
    assert threshold_decay(torch.from_numpy(x), 25, tau, decay).tolist() == chosen
    away = np.linalg.norm(x[chosen][:, None] - x[chosen], axis=2) + 1e9 * np.eye(25)
    assert away.min() > last


def test_without_a_first_threshold_it_starts_above_every_distance():
    x = np.random.default_rng(2).normal(size=(30, 3))
    at, all_ = candidates(x)
    entry = {"policy": "threshold_decay", "count": 10}
    assert kept({**entry, "tau": 1e-9}, at, all_) == list(
        range(10)
    )  # everything lies further apart than that
    assert len(kept(entry, at, all_)) == 10 and kept(entry, at, all_) != list(range(10))
    assert len(kept({"policy": "threshold_decay", "share": 1.0}, at, all_)) == 30


def test_copies_never_fill_the_set():
    at, all_ = candidates([[0.0], [1.0], [0.0], [1.0]])
    assert kept({"policy": "threshold_decay", "count": 2}, at, all_) == [0, 1]
    with pytest.raises(ConfigError, match="must keep 3 of 4 images in generation 1, but only 2 are distinct"):
        kept({"policy": "threshold_decay", "count": 3}, at, all_)
    at, same = candidates([[2.0]] * 3)
    assert kept({"policy": "threshold_decay", "count": 1}, at, same) == [0]
    with pytest.raises(ConfigError, match="only 1 are distinct"):
        kept({"policy": "threshold_decay", "count": 2}, at, same)


@pytest.mark.parametrize("wrong", [{"decay": 1.0}, {"decay": 0.0}, {"tau": 0.0}, {"tau": -1.0}])
def test_a_threshold_that_would_not_fall_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"'{next(iter(wrong))}'"):
        config({"policy": "threshold_decay", "count": 5, **wrong})
