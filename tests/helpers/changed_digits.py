"""Digits that were changed in a known way, and their diagnosis."""

from __future__ import annotations

import numpy as np

from difflab.config import Data
from difflab.data.registry import open_source
from difflab.evaluation.examine import examine
from difflab.evaluation.finding import Diagnosis
from difflab.evaluation.readings import Images
from difflab.evaluation.simulate import simulate
from difflab.metrics import open_extractor

N = 200


def parts() -> dict[str, Images]:
    """Disjoint parts of the digits: reference, other, train, and the pool that samples are made from."""
    source = open_source(Data(source="digits"), 0)
    order = np.random.default_rng(3).permutation(len(source))
    assert source.labels is not None
    real = Images(np.stack([source.read(int(i)) for i in order]), source.labels[order])
    return {
        "reference": real[:N],
        "other": real[N : 2 * N],
        "train": real[2 * N : 3 * N],
        "pool": real[3 * N :],
    }


def changed(digits: dict[str, Images], kind: str, degree: float, seed: int = 0) -> Images:
    pool, train = digits["pool"], digits["train"]
    return Images(*simulate(kind, pool.pixels, pool.labels, degree, N, seed, (train.pixels, train.labels)))


def examined(digits: dict[str, Images], *generations: Images, **options) -> Diagnosis:
    settings = {
        "train": digits["train"],
        "classes": [str(i) for i in range(10)],
        "extractors": [open_extractor("pixels")],
        "resamples": 12,
    }
    return examine(digits["reference"], digits["other"], generations, **(settings | options))
