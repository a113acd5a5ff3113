"""Randomness as a pure function of names: no stream is ever shared, so nothing depends on order or on
processes.

Every random number of a run comes from a generator keyed by what it is for, for example
``("sample", run seed, lab, generation, index)``. Resuming therefore needs no random state on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch


def seed_of(*key: object) -> int:
    """A 63-bit seed from any printable key. Equal keys give equal seeds on every machine."""
    key = tuple(
        part.item() if isinstance(part, np.generic) else part for part in key
    )  # np.int64(5) prints unlike 5
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def generator(*key: object) -> torch.Generator:
    """A CPU generator for this key."""
    return torch.Generator().manual_seed(seed_of(*key))


def numpy_generator(*key: object) -> np.random.Generator:
    """A NumPy generator for this key (Philox: counter-based, the same on every platform)."""
    return np.random.Generator(np.random.Philox(seed_of(*key)))


def lab_seed(run_seed: int, lab: int) -> int:
    """The seed of all that differs between the labs of an ecosystem: weights, draws, noise.

    Lab 0 has the run's own, as a chain by itself.
    """
    return seed_of("lab", run_seed, lab) if lab else run_seed


def image_seeds(run_seed: int, lab: int, generation: int, indices: Iterable[int]) -> list[int]:
    """One seed per image of a generation; fresh ones every generation, since replayed noise may change the
    drift.
    """
    return _distinct(seed_of("sample", run_seed, lab, generation), indices)


def probe_seeds(run_seed: int, count: int) -> list[int]:
    """Seeds of the probe: the same in every generation, for eyes and paired measures."""
    return _distinct(seed_of("probe", run_seed), range(count))


def _distinct(base: int, indices: Iterable[int]) -> list[int]:
    """Seeds whose low 32 bits count up from `base`: all that torch's CPU generator reads of a seed, so no two
    can coincide.
    """
    return [seed_of(base, index) >> 32 << 32 | (base + index) & 0xFFFFFFFF for index in indices]
