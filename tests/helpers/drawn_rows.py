"""Training sets that are drawn without a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from difflab.config import Config, parse
from difflab.loop.mix import draw_rows
from difflab.loop.regimes import pools


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


def rows_of(
    config: Config, t: int, n_train: int = 100, replicates: int = 1, kept: list[np.ndarray] | None = None
) -> pa.Table:
    drawn, budget = pools(config, t, n_train, sampled(config, t) if kept is None else kept)
    return draw_rows(drawn, budget, ("mix", config.seed, t), replicates)
