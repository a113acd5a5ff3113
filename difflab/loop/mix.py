"""Stage 1, mix: draw the rows of training set t from its pools. Rows point at images; no image is copied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from difflab.core.files import write_table
from difflab.core.seeds import lab_seed, numpy_generator
from difflab.loop import regimes
from difflab.loop.work import Work
from difflab.runs.origins import evidence_of, real_depths, with_origins
from difflab.runs.train_set import SHARED, Pool


def mix(work: Work, generation: int) -> None:
    """Stage 1 of one generation: write the rows of training set t to train_set.parquet."""
    run, config = work.run, work.run.config
    n_train = run.about["n_train"]
    kept_of_labs = [[lab.kept(g) for g in range(generation)] for lab in run.labs]
    depths = real_depths(run)
    known: dict[str, Any] = {"n_train": n_train, "real_depths": depths, "evidence": evidence_of(run)}
    acting = work.acting("pools", generation, **known)
    pools, budget = regimes.pools(
        config, generation, n_train, kept_of_labs[config.lab], acting, kept_of_labs, depths
    )
    if not work.main:
        return
    key = ("mix", lab_seed(config.seed, config.lab), generation)
    rows = with_origins(run, draw_rows(pools, budget, key, config.model.chains))
    for policy, at in work.acting("rows", generation, **known):
        rows = policy.rows(at, rows)
    write_table(run.gen(generation) / "train_set.parquet", rows)


def draw_rows(
    pools: list[Pool], budget: int | None, key: tuple[object, ...], replicates: int = 1
) -> pa.Table:
    """Draw the rows of one training set without replacement: columns pool, lab, generation, index, replicate.

    All replicates share the rows of a pool that is taken whole (replicate -1). Random draws are made for each
    replicate separately, so that replicates stay independent chains.

    Args:
        pools: the pools, each with the number of rows to draw from it.
        budget: rows drawn from the union of the pools' draws; None = all of them.
        key: the key of the random numbers.
        replicates: independent chains carried side by side.
    """
    ends = np.cumsum([len(pool.rows) for pool in pools])
    positions = [np.arange(end - len(pool.rows), end) for pool, end in zip(pools, ends, strict=True)]

    def is_whole(i: int) -> bool:
        return pools[i].count == len(pools[i].rows) or pools[i].same

    def from_pool(i: int, replicate: int) -> np.ndarray:
        """Positions in the union of all pools.

        The train split is already shuffled, so its first rows are a random draw.
        """
        pool = pools[i]
        if is_whole(i):
            return positions[i][: pool.count]
        return _draw(positions[i], pool.count, *(pool.key or (*key, i)), replicate)

    picks: list[tuple[np.ndarray, int]] = []  # positions, and the replicate that they belong to
    owners = range(replicates) if replicates > 1 else [SHARED]
    if budget is not None and budget < sum(pool.count for pool in pools):
        for replicate, owner in enumerate(owners):
            union = np.concatenate([from_pool(i, replicate) for i in range(len(pools))])
            picks.append((_draw(union, budget, *key, replicate), owner))
    else:
        for i in range(len(pools)):
            if is_whole(i):
                picks.append((from_pool(i, 0), SHARED))
                continue
            picks += [(from_pool(i, replicate), owner) for replicate, owner in enumerate(owners)]
    return _table(pools, picks)


def _draw(rows: np.ndarray, count: int, *key: object) -> np.ndarray:
    """`count` of `rows` without replacement, in ascending order."""
    return np.sort(numpy_generator(*key).permutation(rows)[:count])


def _table(pools: list[Pool], picks: list[tuple[np.ndarray, int]]) -> pa.Table:
    """The rows at the picked positions of the union of `pools`, each with its replicate."""
    chosen = np.concatenate([positions for positions, _ in picks])
    replicate = np.repeat([owner for _, owner in picks], [len(positions) for positions, _ in picks])
    pool_of_row = np.repeat(np.arange(len(pools)), [len(pool.rows) for pool in pools])[chosen]
    kinds = pa.array([pool.kind for pool in pools])
    index = np.concatenate([pool.rows for pool in pools])
    return pa.table(
        {
            "pool": kinds.take(pa.array(pool_of_row)).dictionary_encode(),
            "lab": pa.array(np.array([pool.lab for pool in pools])[pool_of_row], pa.int16()),
            "generation": pa.array(np.array([pool.generation for pool in pools])[pool_of_row], pa.int32()),
            "index": pa.array(index[chosen], pa.int64()),
            "replicate": pa.array(replicate, pa.int32()),
        }
    )
