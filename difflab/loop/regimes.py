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

In an ecosystem every pool of samples is then split over the labs, by the row of the exchange matrix of the
lab that trains.

Mixing writes rows that point at images; it never copies one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from difflab.config import Config
from difflab.core.errors import ConfigError
from difflab.core.seeds import lab_seed
from difflab.policies import acting
from difflab.runs.ledger import REAL
from difflab.runs.sizes import first_size, fresh_needed, real_count
from difflab.runs.train_set import Pool


def pools(
    config: Config,
    generation: int,
    n_train: int,
    kept: list[np.ndarray],
    policies: Iterable[tuple[Any, Any]] = (),
    labs: Sequence[list[np.ndarray]] | None = None,
) -> tuple[list[Pool], int | None]:
    """The pools of training set `generation`, and the budget that is drawn from their union (None = all of
    it).

    The regime decides; then the policies that act on pools change its decision.

    Args:
        n_train: real images in the train split. The first n0 are training set 0, the others are the reserve.
        kept: for each earlier generation, the indices of its samples that selection kept.
        policies: those that act on pools in this generation, each with its context.
        labs: `kept` of every lab of an ecosystem; None = all labs kept the same indices.

    Raises:
        ConfigError: more images are asked for than there are.
    """
    drawn, budget = _of_regime(config, generation, n_train, kept)
    for policy, at in policies:
        drawn, budget = policy.pools(at, drawn, budget)
    if config.ecosystem and config.ecosystem.lab is not None:
        drawn, budget = exchanged(config, drawn, budget, labs or [kept] * config.ecosystem.count)
    _check(drawn, budget, generation, config.ecosystem is not None)
    return [p for p in drawn if p.count], budget


def exchanged(
    config: Config, drawn: list[Pool], budget: int | None, kept: Sequence[list[np.ndarray]]
) -> tuple[list[Pool], int | None]:
    """The pools of one lab of an ecosystem: every pool of samples is split over the labs.

    The shares are the lab's row of the exchange matrix; counts are rounded by largest remainder. The total is
    what the regime asks for. The part of each lab is drawn without replacement from the samples that this lab
    kept, independently of the draws of other labs. If a pool is a whole generation, its parts are the same in
    every later training set: the lab has received these images. A budget over several pools is drawn from
    their union after the exchange, so that it keeps the shares on average; a budget over a single pool keeps
    them exactly.

    Args:
        kept: for each lab and each earlier generation, the indices of the samples that selection kept.
    """
    assert config.ecosystem is not None
    own, shares = config.lab, config.ecosystem.matrix[config.lab]
    if shares[own] == 1:
        return [p if p.generation == REAL else replace(p, lab=own) for p in drawn], budget
    if budget is not None and len(drawn) == 1 and drawn[0].generation != REAL:
        drawn, budget = [replace(drawn[0], count=budget)], None
    out = []
    for pool in drawn:
        if pool.generation == REAL:
            out.append(pool)
            continue
        whole = pool.count == len(pool.rows)
        for lab, count in enumerate(_remainders(pool.count, shares)):
            key = ("exchange", lab_seed(config.seed, own), pool.generation, lab) if whole else ()
            if count:
                out.append(
                    replace(
                        pool,
                        rows=pool.rows if lab == own else kept[lab][pool.generation],
                        count=count,
                        lab=lab,
                        key=key,
                    )
                )
    return out, budget


def _of_regime(
    config: Config, generation: int, n_train: int, kept: list[np.ndarray]
) -> tuple[list[Pool], int | None]:
    """The pools and the budget of the regime by itself, see the table at the top."""
    regime, n0 = config.regime, first_size(config, n_train)
    if generation == 0:
        return [_first_real(n0)], None
    from_all = regime.name.startswith("accumulate")
    if regime.synthetic_from is not None:
        from_all = regime.synthetic_from == "all"
    sources = range(generation) if from_all else range(generation - 1, generation)
    if regime.name in ("fixed_real", "fresh_real"):
        return _real_and_synthetic(config, generation, n_train, kept, sources), None
    drawn = [Pool("synthetic", g, kept[g], len(kept[g])) for g in sources]
    if regime.name == "replace":
        return drawn, regime.set_size
    drawn = [_first_real(n0), *drawn]
    if regime.name == "accumulate":
        return drawn, regime.set_size
    size = regime.set_size or n0
    if not regime.stratified:
        return drawn, size
    counts = _shares(size, len(drawn))
    return [replace(pool, count=count) for pool, count in zip(drawn, counts, strict=True)], None


def _first_real(n0: int) -> Pool:
    """All images of training set 0."""
    return Pool("fixed_real", REAL, np.arange(n0), n0)


def _real_and_synthetic(
    config: Config, generation: int, n_train: int, kept: list[np.ndarray], sources: range
) -> list[Pool]:
    """The pools of fixed_real and fresh_real: a share of real images, the others from the generations
    `sources`.
    """
    n0 = first_size(config, n_train)
    n_real = real_count(config, n0)
    if config.regime.name == "fixed_real":
        real = Pool("fixed_real", REAL, np.arange(n0), n_real, same=True)
    else:
        start = n0 + (generation - 1) * n_real
        real = Pool("fresh_real", REAL, np.arange(start, min(n_train, start + n_real)), n_real)
    counts = _shares((config.regime.set_size or n0) - n_real, len(sources))
    synthetic = [Pool("synthetic", g, kept[g], count) for g, count in zip(sources, counts, strict=True)]
    return [real, *synthetic]


def check_possible(config: Config, n_train: int, labs: Sequence[Config] = ()) -> None:
    """Raise ConfigError before anything runs when some generation would ask for more images than there will
    be.

    `labs`: the configs of all labs of an ecosystem.
    """
    n0 = first_size(config, n_train)
    reserve, needed = n_train - n0, fresh_needed(config, n0)
    if config.regime.name == "fresh_real" and needed > reserve:
        per = real_count(config, n0)
        raise ConfigError(
            f"fresh_real runs out of unseen real images at generation {reserve // per + 1}: "
            f"{config.generations} generations x {per} = {needed} asked, "
            f"{reserve} in reserve (train split {n_train}, data.train_size {n0}); lower "
            "regime.real_fraction, regime.set_size, data.train_size or generations"
        )
    kept = [[np.arange(expected(own, g)) for g in range(config.generations)] for own in (config, *labs)]
    for t in range(1, config.generations + 1):
        mine, *of_labs = [whole[:t] for whole in kept]
        pools(config, t, n_train, mine, acting("pools", config, t, n_train=n_train), of_labs or None)


def expected(config: Config, generation: int) -> int:
    """The samples of a generation that selection keeps at least, as far as that is known beforehand."""
    count = config.sample.count_of(generation)
    for policy, _ in acting("select", config, generation):
        count = policy.keeps(count)
    return count


def _shares(total: int, parts: int) -> list[int]:
    """`total` in equal parts; the first ones get the remainder."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def _remainders(total: int, shares: Sequence[float]) -> list[int]:
    """`total` in parts by `shares`, which sum to 1: whole numbers by largest remainder, ties to the first."""
    exact = [total * share for share in shares]
    out = [int(x + 1e-9) for x in exact]
    for i in sorted(range(len(out)), key=lambda i: (round(out[i] - exact[i], 9), i))[: total - sum(out)]:
        out[i] += 1
    return out


def _check(drawn: list[Pool], budget: int | None, generation: int, named: bool = False) -> None:
    for pool in drawn:
        if pool.count > len(pool.rows):
            origin = (
                "real images"
                if pool.generation == REAL
                else f"samples of generation {pool.generation}{f' of lab {pool.lab}' if named else ''}"
            )
            more = "sample.count" if pool.kind == "synthetic" else "data.train_size"
            raise ConfigError(
                f"training set {generation} asks for {pool.count} {origin} ({pool.kind}), {len(pool.rows)} "
                "are there; "
                f"raise {more}, or lower regime.set_size or change regime.real_fraction"
            )
    available = sum(p.count for p in drawn)
    if budget is not None and budget > available:
        raise ConfigError(
            f"training set {generation} has a budget of {budget} images, its pools hold {available}; lower "
            "regime.set_size or raise sample.count"
        )
    if available == 0:
        raise ConfigError(f"training set {generation} would be empty; raise sample.count or regime.set_size")
