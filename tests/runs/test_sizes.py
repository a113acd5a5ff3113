from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from difflab.config import Config, parse
from difflab.core.errors import ConfigError
from difflab.loop.regimes import check_possible, pools

R = -1  # generation of a real image


def chain(
    name: str = "replace", n0: int | None = 10, generations: int = 3, count: Any = 10, **regime: Any
) -> Config:
    return parse(
        {
            "generations": generations,
            "data": {"train_size": n0},
            "model": {"family": "memoriser"},
            "regime": {"name": name, **regime},
            "sample": {"count": count},
        }
    )


def sampled(config: Config, t: int) -> list[np.ndarray]:
    return [np.arange(config.sample.count_of(g)) for g in range(t)]


def shares(config: Config, t: int, n_train: int = 100) -> tuple[list[tuple[str, int, int, int]], int | None]:
    """(kind, generation, rows in the pool, count) of every pool, and the budget."""
    drawn, budget = pools(config, t, n_train, sampled(config, t))
    return [(p.kind, p.generation, len(p.rows), p.count) for p in drawn], budget


def test_the_whole_train_split_is_generation_0_when_train_size_is_not_given():
    assert shares(chain(n0=None), 0, n_train=37) == ([("fixed_real", R, 37, 37)], None)


def test_fresh_real_that_would_run_out_says_when_before_anything_runs():
    config = chain("fresh_real", real_fraction=0.3, generations=31)
    with pytest.raises(
        ConfigError,
        match=r"runs out of unseen real images at generation 31: 31 generations x 3 = 93 are needed, 90 are in reserve",
    ):
        check_possible(config, 100)
    with pytest.raises(ConfigError, match="at generation 1:"):
        check_possible(chain("fresh_real", n0=10), 11)
    check_possible(
        chain("fresh_real", n0=10, real_fraction=0.0, generations=1000), 10
    )  # none wanted, none missing
