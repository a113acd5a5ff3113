from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from made import NUMBERS, UNCONDITIONAL, candidates, checked, config, kept

from difflab.config import parse
from difflab.core.errors import ConfigError
from difflab.loop.chain import run_chain
from difflab.loop.regimes import check_possible
from difflab.policies.select.farthest import farthest

run_chain = partial(run_chain, plots=False)  # curves take seconds


def naive(x: np.ndarray, n: int) -> list[int]:
    chosen = [0]
    while len(chosen) < n:
        away = [
            min(np.linalg.norm(x[i] - x[j]) for j in chosen) if i not in chosen else -1 for i in range(len(x))
        ]
        chosen.append(int(np.argmax(away)))
    return chosen


def smallest(x: np.ndarray, chosen) -> float:
    return min(np.linalg.norm(x[i] - x[j]) for i, j in combinations(chosen, 2))


def test_it_is_the_greedy_choice_written_down_once_more():
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    assert farthest(torch.from_numpy(x), 15).tolist() == naive(x.astype(float), 15)


@pytest.mark.parametrize("seed", range(5))
def test_the_set_is_at_least_half_as_spread_as_the_best(seed):
    x = np.random.default_rng(seed).normal(size=(11, 2))
    best = max(smallest(x, chosen) for chosen in combinations(range(11), 4))
    assert best / 2 <= smallest(x, farthest(torch.from_numpy(x), 4)) <= best


def test_copies_are_chosen_last_and_everything_can_be_chosen():
    x = torch.tensor([[0.0], [0.0], [3.0], [0.0], [1.0]])
    assert farthest(x, 5).tolist() == [0, 2, 4, 1, 3]


def test_share_or_count_of_the_samples_and_the_distance_to_real_ones():
    x = [[0.0], [10.0], [4.0], [9.0], [1.0]]
    at, all_ = candidates(x, real=[[0.0], [10.0]])
    assert kept({"policy": "farthest", "count": 2}, at, all_) == [0, 1]
    assert kept({"policy": "farthest", "share": 0.6}, at, all_) == [0, 1, 2]
    assert kept({"policy": "farthest", "count": 2, "away_from_real": True}, at, all_) == [2, 3]
    at, all_ = candidates(x, labels=[0, 0, 1, 1, 1])
    assert kept({"policy": "farthest", "share": 0.5, "within": "class"}, at, all_) == [0, 2, 3]


def test_of_all_that_a_training_set_would_be_made_of(tmp_path):
    raw = {
        "generations": 2,
        "data": {"source": "digits", "limit": 80},
        "model": {"family": "memoriser"},
        "regime": {"name": "accumulate"},
        "sample": {"count": 40},
        "probe": {"per_condition": 0},
        "measure": {"metrics": ["trace_ratio"], "resamples": 0},
        "policies": [{"policy": "farthest", "count": 40, "stage": "mix"}],
    }
    run = run_chain(parse(raw), tmp_path / "run")
    n0 = run.about["n_train"]
    assert n0 == 40 and len(run.kept(0)) == len(run.kept(1)) == 40
    assert len(pq.read_table(run.gen(0) / "train_set.parquet")) == n0
    rows = pq.read_table(run.gen(2) / "train_set.parquet").to_pydict()
    assert len(rows["index"]) == 40
    # Samples are copies of real images, which come first and are as far from each other: not one copy is taken.
    assert set(rows["generation"]) == {-1} and sorted(rows["index"]) == list(range(40))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="exactly one of share, count"):
        config({"policy": "farthest"})
    with pytest.raises(ConfigError, match="away_from_real has no effect with stage: mix"):
        config({"policy": "farthest", "count": 5, "stage": "mix", "away_from_real": True})
    with pytest.raises(ConfigError, match="stage: mix selects from all images together"):
        config({"policy": "farthest", "share": 0.5, "stage": "mix", "within": "class"})
    with pytest.raises(
        ConfigError, match=r"compares images, but the samples of model.family=categorical are numbers"
    ):
        checked({"policy": "farthest", "count": 5}, base=NUMBERS)
    with pytest.raises(ConfigError, match="'inception' is not in"):
        checked({"policy": "farthest", "count": 5, "extractor": "inception"})
    with pytest.raises(ConfigError, match="before labs exchange their samples"):
        checked({"policy": "farthest", "count": 5, "stage": "mix"}, ecosystem={"labs": 2})
    mix, sample = {"policy": "farthest", "count": 120, "stage": "mix"}, {"count": 50}
    check_possible(config(mix, base=UNCONDITIONAL, sample=sample, regime={"name": "accumulate"}), 100)
    with pytest.raises(ConfigError, match="farthest keeps 120 samples, but there are 50"):
        check_possible(config(mix, base=UNCONDITIONAL, sample=sample), 100)
    with pytest.raises(ConfigError, match="replaces the random draw of the regime"):
        check_possible(config(mix, base=UNCONDITIONAL, sample=sample, regime={"name": "fixed_real"}), 60)
