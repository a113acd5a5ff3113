"""Stage 1, mix: the images of training set t. The five regimes are five settings of one formula.

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

The rows of a training set point at images. No image is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from difflab.config import Config
from difflab.core.errors import ConfigError
from difflab.core.seeds import lab_seed
from difflab.policies import At, acting
from difflab.runs.ledger import REAL
from difflab.runs.origins import Evidence
from difflab.runs.sizes import first_size, fresh_needed, real_count
from difflab.runs.train_set import Pool


def pools(
    config: Config,
    generation: int,
    n_train: int,
    kept: list[np.ndarray],
    policies: Iterable[tuple[Any, Any]] = (),
    labs: Sequence[list[np.ndarray]] | None = None,
    depths: np.ndarray | None = None,
) -> tuple[list[Pool], int | None]:
    """The pools of training set `generation`, and the number of rows drawn from their union (None = all).

    They follow from the regime. Policies that act on pools can then change them.

    Args:
        config: the config of the run, or of one lab.
        generation: the number t of the training set.
        n_train: real images in the train split. The first n0 are training set 0, the others are the reserve.
        kept: for each earlier generation, the indices of its samples that selection kept.
        policies: the policies that act on pools in this generation, each with its context.
        labs: `kept` of every lab of an ecosystem; None = all labs kept the same indices.
        depths: the counted depth of each real image, int64 [n]; None = all are 0. Training set 0 has all its
            images. Later draws of real images take only those of depth 0.

    Raises:
        ConfigError: a pool has fewer images than are to be drawn from it.
    """
    depths = np.zeros(n_train, dtype=np.int64) if depths is None else depths[:n_train]
    drawn, budget = _of_regime(config, generation, depths, kept)
    for policy, at in policies:
        drawn, budget = policy.pools(at, drawn, budget)
    if config.ecosystem and config.ecosystem.lab is not None:
        drawn, budget = exchanged(config, drawn, budget, labs or [kept] * config.ecosystem.count)
    _check(drawn, budget, generation, config.ecosystem is not None)
    return [pool for pool in drawn if pool.count], budget


def exchanged(
    config: Config, drawn: list[Pool], budget: int | None, kept: Sequence[list[np.ndarray]]
) -> tuple[list[Pool], int | None]:
    """The pools of one lab of an ecosystem: every pool of samples is split over the labs.

    The shares are the lab's row of the exchange matrix. Counts are rounded by largest remainder, and their
    total is that of the regime. The part of each lab is drawn without replacement from the samples that this
    lab kept, independently of the draws of other labs. If a pool is a whole generation, its parts are the
    same in every later training set. A budget over several pools is drawn from their union after the
    exchange, so it keeps the shares on average. A budget over a single pool keeps them exactly.

    Args:
        config: the config of the lab.
        drawn: its pools before the exchange.
        budget: the number of rows drawn from their union; None = all.
        kept: for each lab and each earlier generation, the indices of the samples that selection kept.
    """
    assert config.ecosystem is not None
    this_lab, shares = config.lab, config.ecosystem.matrix[config.lab]
    if shares[this_lab] == 1:
        return [pool if pool.generation == REAL else replace(pool, lab=this_lab) for pool in drawn], budget
    if budget is not None and len(drawn) == 1 and drawn[0].generation != REAL:
        drawn, budget = [replace(drawn[0], count=budget)], None
    out = []
    for pool in drawn:
        if pool.generation == REAL:
            out.append(pool)
            continue
        whole = pool.count == len(pool.rows)
        for lab, count in enumerate(_remainders(pool.count, shares)):
            key = ("exchange", lab_seed(config.seed, this_lab), pool.generation, lab) if whole else ()
            if count:
                out.append(
                    replace(
                        pool,
                        rows=pool.rows if lab == this_lab else kept[lab][pool.generation],
                        count=count,
                        lab=lab,
                        key=key,
                    )
                )
    return out, budget


def _of_regime(
    config: Config, generation: int, depths: np.ndarray, kept: list[np.ndarray]
) -> tuple[list[Pool], int | None]:
    """The pools and the budget of the regime, see the table at the top of this file."""
    regime, n0 = config.regime, first_size(config, len(depths))
    if generation == 0:
        return [_first_real(n0)], None
    from_all = regime.name.startswith("accumulate")
    if regime.synthetic_from is not None:
        from_all = regime.synthetic_from == "all"
    sources = range(generation) if from_all else range(generation - 1, generation)
    if regime.name in ("fixed_real", "fresh_real"):
        return _real_and_synthetic(config, generation, depths, kept, sources), None
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
    config: Config, generation: int, depths: np.ndarray, kept: list[np.ndarray], sources: range
) -> list[Pool]:
    """The pools of fixed_real and fresh_real: real images, and samples of the generations `sources`."""
    n0 = first_size(config, len(depths))
    n_real = real_count(config, n0)
    if config.regime.name == "fixed_real":
        real = Pool("fixed_real", REAL, np.flatnonzero(depths[:n0] == 0), n_real, same=True)
    else:
        start = (generation - 1) * n_real
        reserve = n0 + np.flatnonzero(depths[n0:] == 0)
        real = Pool("fresh_real", REAL, reserve[start : start + n_real], n_real)
    counts = _shares((config.regime.set_size or n0) - n_real, len(sources))
    synthetic = [Pool("synthetic", g, kept[g], count) for g, count in zip(sources, counts, strict=True)]
    return [real, *synthetic]


def check_possible(
    config: Config,
    n_train: int,
    labs: Sequence[Config] = (),
    depths: np.ndarray | None = None,
    evidence: Evidence | None = None,
) -> None:
    """Raise ConfigError if some generation needs more images than there will be. Nothing is run.

    Args:
        config: the config of the run, or of one lab.
        n_train: real images in the train split.
        labs: the configs of all labs of an ecosystem.
        depths: the counted depth of each real image, int64 [n]; None = all are 0.
        evidence: what is known about the origin of the real images besides; None = nothing.
    """
    depths = np.zeros(n_train, dtype=np.int64) if depths is None else depths[:n_train]
    n0 = first_size(config, n_train)
    reserve, needed = int((depths[n0:] == 0).sum()), fresh_needed(config, n0)
    if config.regime.name == "fresh_real" and needed > reserve:
        per = real_count(config, n0)
        raise ConfigError(
            f"fresh_real runs out of unseen real images at generation {reserve // per + 1}: "
            f"{config.generations} generations x {per} = {needed} are needed, "
            f"{reserve} are in reserve (train split {n_train}, data.train_size {n0}{_synthetic(depths)}); "
            "lower regime.real_fraction, regime.set_size, data.train_size or generations"
        )
    kept = [_expected_indices(part) for part in (config, *labs)]
    shared: dict[str, Any] = {"n_train": n_train, "real_depths": depths, "evidence": evidence}
    for position, policy in enumerate(config.policies):
        policy.check_real(At(generation=0, position=position, config=config, **shared))
    for t in range(1, config.generations + 1):
        of_config, *of_labs = [indices[:t] for indices in kept]
        pools(config, t, n_train, of_config, acting("pools", config, t, **shared), of_labs or None, depths)


def _synthetic(depths: np.ndarray) -> str:
    """The number of images of the real set that count as synthetic, for a message; "" if there are none."""
    count = int((depths > 0).sum())
    return f", {count} images declare that they are synthetic" if count else ""


def _expected_indices(config: Config) -> list[np.ndarray]:
    """Indices of as many samples as selection will keep at least, for each generation."""
    return [np.arange(expected(config, g)) for g in range(config.generations)]


def expected(config: Config, generation: int) -> int:
    """The least number of samples that selection keeps in a generation, as far as it is known."""
    count = config.sample.count_of(generation)
    for policy, _ in acting("select", config, generation):
        count = policy.keeps(count)
    return count


def _shares(total: int, parts: int) -> list[int]:
    """Split `total` into equal parts. The remainder is added to the first parts, one each."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def _remainders(total: int, shares: Sequence[float]) -> list[int]:
    """Split `total` by `shares`, which sum to 1, into whole numbers by largest remainder.

    Ties go to the first part.
    """
    exact = [total * share for share in shares]
    counts = [int(part + 1e-9) for part in exact]
    by_remainder = sorted(range(len(counts)), key=lambda i: (round(counts[i] - exact[i], 9), i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _check(drawn: list[Pool], budget: int | None, generation: int, named: bool = False) -> None:
    """Raise ConfigError if the pools have too few images. With `named`, the message names the lab."""
    for pool in drawn:
        if pool.count > len(pool.rows):
            origin = "real images"
            if pool.generation != REAL:
                lab = f" of lab {pool.lab}" if named else ""
                origin = f"samples of generation {pool.generation}{lab}"
            field = "sample.count" if pool.kind == "synthetic" else "data.train_size"
            raise ConfigError(
                f"training set {generation} asks for {pool.count} {origin} ({pool.kind}), but there are only "
                f"{len(pool.rows)}; raise {field}, or lower regime.set_size or change regime.real_fraction"
            )
    available = sum(pool.count for pool in drawn)
    if budget is not None and budget > available:
        raise ConfigError(
            f"training set {generation} has a budget of {budget} images, but its pools have {available}; "
            "lower regime.set_size or raise sample.count"
        )
    if available == 0:
        raise ConfigError(f"training set {generation} would be empty; raise sample.count or regime.set_size")
