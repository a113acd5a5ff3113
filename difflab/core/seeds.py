"""Random seeds as a pure function of a key.

Every random number of a run comes from a generator whose key names its purpose, for example
``("sample", run seed, lab, generation, index)``. No two purposes share a generator, so results do not depend
on the order of computation or on the number of processes. Resuming needs no random state on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch


def seed_of(*key: object) -> int:
    """A 63-bit seed from the `repr` of a key. Equal keys give equal seeds on every machine."""
    # NumPy numbers become Python numbers, because the repr of np.int64(5) is not that of 5.
    key = tuple(part.item() if isinstance(part, np.generic) else part for part in key)
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def generator(*key: object) -> torch.Generator:
    """A CPU generator for this key."""
    return torch.Generator().manual_seed(seed_of(*key))


def numpy_generator(*key: object) -> np.random.Generator:
    """A NumPy generator for this key (Philox: counter-based, the same on every platform)."""
    return np.random.Generator(np.random.Philox(seed_of(*key)))


def lab_seed(run_seed: int, lab: int) -> int:
    """The seed of everything that differs between the labs of an ecosystem: initial weights, draws and noise.

    Lab 0 has the seed of the run, as a chain without an ecosystem.
    """
    return seed_of("lab", run_seed, lab) if lab else run_seed


def image_seeds(run_seed: int, lab: int, generation: int, indices: Iterable[int]) -> list[int]:
    """One seed per image of a generation.

    Every generation has other seeds, because the same noise in all generations may change the drift.
    """
    return _distinct(seed_of("sample", run_seed, lab, generation), indices)


def probe_seeds(run_seed: int, count: int) -> list[int]:
    """The seeds of the probe. They are the same in every generation, so that its images can be compared."""
    return _distinct(seed_of("probe", run_seed), range(count))


def _distinct(base: int, indices: Iterable[int]) -> list[int]:
    """Seeds whose low 32 bits are `base` + index.

    The CPU generator of torch reads only these 32 bits, so no two of the seeds give the same stream.
    """
    return [seed_of(base, index) >> 32 << 32 | (base + index) & 0xFFFFFFFF for index in indices]
