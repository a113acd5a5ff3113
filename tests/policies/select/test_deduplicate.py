from __future__ import annotations

import numpy as np
import pytest
import torch
from made import candidates, checked, config, kept, reasons

from difflab.core.errors import ConfigError
from difflab.policies.select.deduplicate import repeated

RNG = np.random.default_rng(0)
GRID = np.arange(200.0)[:, None] ** 1.5  # spacings grow, so that their 1% quantile is near the smallest


def naive(x: np.ndarray, near: float) -> list[int]:
    of, kept_ = [], []
    for i in range(len(x)):
        first = [(np.linalg.norm(x[i] - x[j]), j) for j in kept_]
        hit = min(first) if first and min(first)[0] <= near else None
        of.append(-1 if hit is None else hit[1])
        if hit is None:
            kept_.append(i)
    return of


@pytest.mark.parametrize("block", [1, 7, 64])
def test_what_is_kept_does_not_depend_on_the_blocks(block):
    x = RNG.normal(size=(64, 2)).astype(np.float32)
    wanted = np.array(naive(x.astype(float), 0.5))
    found = repeated(torch.from_numpy(x), 0.5, block)
    assert np.array_equal(found < 0, wanted < 0) and (wanted < 0).sum() not in (0, 64)
    for i in np.flatnonzero(
        found >= 0
    ):  # which of several near ones is named depends on the blocks, that it is near and kept does not
        assert found[i] < i and found[found[i]] == -1 and np.linalg.norm(x[i] - x[found[i]]) <= 0.5


def test_repeats_are_dropped_and_named():
    at, all_ = candidates([[500.0], [700.0], [500.1], [900.0], [700.0]], real=GRID)
    assert reasons("deduplicate", at, all_) == [None, None, "nearly sample 0", None, "nearly sample 1"]
    assert reasons("deduplicate", at, all_.only(np.array([1, 2, 4]))) == [None, None, "nearly sample 1"]


def test_what_nearly_repeats_a_real_image_is_dropped_where_that_is_asked_for():
    at, all_ = candidates([[GRID[50, 0] + 0.01], [GRID[50, 0] + 3], [GRID[50, 0] + 3.01]], real=GRID)
    assert kept("deduplicate", at, all_) == [0, 1]
    assert reasons({"policy": "deduplicate", "real": True}, at, all_) == [
        "nearly real image 50",
        None,
        "nearly sample 1",
    ]


def test_of_honest_samples_about_the_rate_is_lost():
    real, fake = RNG.normal(size=(1500, 3)), RNG.normal(size=(1500, 3))
    at, all_ = candidates(fake, real)
    lost = [1500 - len(kept({"policy": "deduplicate", "rate": rate}, at, all_)) for rate in (0.01, 0.1)]
    assert (
        3 < lost[0] < 30 and 50 < lost[1] < 150
    )  # one of each pair goes: half of the share of samples with a near one


def test_exact_copies_go_however_small_the_rate():
    at, all_ = candidates(GRID[[5, 9, 5]], real=GRID)
    assert kept({"policy": "deduplicate", "rate": 1e-6}, at, all_) == [0, 1]
    at, all_ = candidates(
        GRID[[5, 9, 5]] + 0.25, real=np.repeat(GRID, 2, axis=0)
    )  # real images that are all doubled: only copies are too near
    assert kept("deduplicate", at, all_) == [0, 1]


def test_what_does_not_fit_is_refused():
    for rate in (0.0, 1.0):
        with pytest.raises(ConfigError, match="'rate'"):
            config({"policy": "deduplicate", "rate": rate})
    with pytest.raises(ConfigError, match=r"not in measure.extractors"):
        checked({"policy": "deduplicate", "extractor": "inception"})
    at, all_ = candidates([[1.0]], real=[[1.0]])
    with pytest.raises(ConfigError, match="at least 2 real images, but there are 1"):
        kept("deduplicate", at, all_)
