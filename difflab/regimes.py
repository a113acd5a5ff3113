"""Stage 1, mix: which images training set t is made of. The five regimes are five settings of one formula.

Training set t >= 1 is drawn from three pools, with a count for each and an optional budget over their union:

    ====================  ==========  ==========  ==============  ===============  ========
    name                  fixed real  fresh real  synthetic from  synthetic count  budget
    ====================  ==========  ==========  ==============  ===============  ========
    replace               -           -           last            all              set_size
    accumulate            all n0      -           all so far      all              -
    accumulate_subsample  all n0      -           all so far      all              n
    fixed_real            a n         -           last            (1-a) n          -
    fresh_real            -           a n         last            (1-a) n          -
    ====================  ==========  ==========  ==============  ===============  ========

with n = set_size or n0, a = real_fraction. Terms: Gerstgrasser et al. 2404.01413 (replace, accumulate),
Kazdan et al. 2410.16713 (accumulate-subsample), Alemohammad et al. 2307.01850 (fixed and fresh real data),
Shi et al. 2509.16499 (the stratified draw). Training set 0 is the first n0 images of the real train split.

Mixing writes rows that point at images; it never copies one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from difflab.config import Config
from difflab.data.ledger import REAL
from difflab.errors import ConfigError
from difflab.policies import acting
from difflab.seeds import numpy_generator

SHARED = -1  # replicate of a row that belongs to every replicate


@dataclass(frozen=True)
class Pool:
    """Images that may be drawn: `count` of the `rows` of one generation (-1 = real)."""

    kind: str  # fixed_real | fresh_real | synthetic
    generation: int
    rows: np.ndarray
    count: int
    same: bool = False  # the first `count` rows in every generation instead of a draw


def pools(
    config: Config, generation: int, n_train: int, kept: list[np.ndarray], policies: Iterable[tuple[Any, Any]] = ()
) -> tuple[list[Pool], int | None]:
    """The pools of training set `generation` and the budget drawn from their union (None = everything): the regime's, changed by policies.

    Args:
        n_train: real images in the train split; the first n0 are generation 0's, the rest the reserve.
        kept: for each earlier generation, the indices of its samples that selection kept.
        policies: those that act on pools in this generation, each with where it stands.

    Raises ConfigError when more images are asked for than exist.
    """
    drawn, budget = _of_regime(config, generation, n_train, kept)
    for policy, at in policies:
        drawn, budget = policy.pools(at, drawn, budget)
    _check(drawn, budget, generation)
    return [p for p in drawn if p.count], budget


def _of_regime(config: Config, generation: int, n_train: int, kept: list[np.ndarray]) -> tuple[list[Pool], int | None]:
    regime, n0 = config.regime, first_size(config, n_train)
    real = np.arange(n0)
    if generation == 0:
        return [Pool("fixed_real", REAL, real, n0)], None
    n = regime.set_size or n0
    accumulating = regime.name.startswith("accumulate")
    budget: int | None = None
    sources = range(generation) if (regime.synthetic_from or ("all" if accumulating else "last")) == "all" else [generation - 1]

    if regime.name == "replace" or accumulating:
        drawn = [Pool("synthetic", g, kept[g], len(kept[g])) for g in sources]
        drawn = [Pool("fixed_real", REAL, real, n0), *drawn] if accumulating else drawn
        budget = n if regime.name == "accumulate_subsample" else regime.set_size
        if regime.stratified:
            shares = _shares(n, len(drawn))
            drawn, budget = [Pool(p.kind, p.generation, p.rows, c) for p, c in zip(drawn, shares, strict=True)], None
    else:
        n_real, start = real_count(config, n0), (generation - 1) * real_count(config, n0)
        if regime.name == "fixed_real":
            drawn = [Pool("fixed_real", REAL, real, n_real, same=True)]
        else:
            reserve = np.arange(n0 + start, min(n_train, n0 + start + n_real))
            drawn = [Pool("fresh_real", REAL, reserve, n_real)]
        drawn += [Pool("synthetic", g, kept[g], c) for g, c in zip(sources, _shares(n - n_real, len(sources)), strict=True)]
    return drawn, budget


def first_size(config: Config, n_train: int) -> int:
    """n0, the size of generation 0's training set."""
    n0 = config.data.train_size or n_train
    if n0 > n_train:
        raise ConfigError(f"data.train_size asks for {n0} real images, the train split has {n_train}; lower data.train_size or data.held_out")
    return n0


def real_count(config: Config, n0: int) -> int:
    """Real images in each training set t >= 1 of fixed_real and fresh_real."""
    share = 0.5 if config.regime.real_fraction is None else config.regime.real_fraction
    return round(share * (config.regime.set_size or n0))


def fresh_needed(config: Config, n0: int) -> int:
    """Unseen real images that the whole chain will draw."""
    return real_count(config, n0) * config.generations if config.regime.name == "fresh_real" else 0


def check_possible(config: Config, n_train: int) -> None:
    """Raise ConfigError before anything runs when some generation would ask for more images than there will be."""
    n0 = first_size(config, n_train)
    reserve, needed = n_train - n0, fresh_needed(config, n0)
    if needed > reserve:
        per = real_count(config, n0)
        raise ConfigError(
            f"fresh_real runs out of unseen real images at generation {reserve // per + 1}: {config.generations} generations x {per} = {needed} asked, "
            f"{reserve} in reserve (train split {n_train}, data.train_size {n0}); lower regime.real_fraction, regime.set_size, data.train_size or generations"
        )
    kept = [np.arange(expected(config, g)) for g in range(config.generations)]
    for t in range(1, config.generations + 1):
        pools(config, t, n_train, kept[:t], acting("pools", config, t, n_train=n_train))


def expected(config: Config, generation: int) -> int:
    """Samples of a generation that selection leaves at least, as far as that is known before they are drawn."""
    count = config.sample.count_of(generation)
    for policy, _ in acting("select", config, generation):
        count = policy.keeps(count)
    return count


def mix(drawn: list[Pool], budget: int | None, key: tuple[object, ...], replicates: int = 1) -> pa.Table:
    """Draw the rows of one training set without replacement: columns pool, generation, index, replicate.

    A pool that is taken whole gives rows shared by all replicates (-1); anything drawn at random is drawn for each
    replicate on its own, so that replicates stay independent chains.
    """
    pool_of = np.concatenate([np.full(len(p.rows), i) for i, p in enumerate(drawn)])
    index = np.concatenate([p.rows for p in drawn])
    picks: list[tuple[np.ndarray, int]] = []  # positions in the union of the pools, replicate

    def each(rows: np.ndarray, count: int, *name: object) -> None:
        for r in range(replicates):
            picks.append((np.sort(numpy_generator(*key, *name, r).permutation(rows)[:count]), r if replicates > 1 else SHARED))

    if budget is not None and budget < sum(p.count for p in drawn):
        each(np.arange(len(index)), budget)
    else:
        for i, pool in enumerate(drawn):
            mine = np.flatnonzero(pool_of == i)
            if pool.count == len(mine) or pool.same:  # the train split is shuffled already
                picks.append((mine[: pool.count], SHARED))
            else:
                each(mine, pool.count, i)
    at = np.concatenate([rows for rows, _ in picks])
    kinds = pa.array([p.kind for p in drawn])
    return pa.table(
        {
            "pool": kinds.take(pa.array(pool_of[at])).dictionary_encode(),
            "generation": pa.array(np.array([p.generation for p in drawn])[pool_of[at]], pa.int32()),
            "index": pa.array(index[at], pa.int64()),
            "replicate": pa.array(np.repeat([r for _, r in picks], [len(rows) for rows, _ in picks]), pa.int32()),
        }
    )


def _shares(total: int, parts: int) -> list[int]:
    """`total` in equal parts; the first ones get the remainder."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def _check(drawn: list[Pool], budget: int | None, generation: int) -> None:
    for pool in drawn:
        if pool.count > len(pool.rows):
            origin = "real images" if pool.generation == REAL else f"samples of generation {pool.generation}"
            more = "sample.count" if pool.kind == "synthetic" else "data.train_size"
            raise ConfigError(
                f"training set {generation} asks for {pool.count} {origin} ({pool.kind}), {len(pool.rows)} are there; "
                f"raise {more}, or lower regime.set_size or change regime.real_fraction"
            )
    available = sum(p.count for p in drawn)
    if budget is not None and budget > available:
        raise ConfigError(
            f"training set {generation} has a budget of {budget} images, its pools hold {available}; lower regime.set_size or raise sample.count"
        )
    if available == 0:
        raise ConfigError(f"training set {generation} would be empty; raise sample.count or regime.set_size")
