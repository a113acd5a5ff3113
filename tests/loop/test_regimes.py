from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from drawn_rows import chain, rows_of, sampled

from difflab.config import Config
from difflab.core.errors import ConfigError
from difflab.loop.regimes import check_possible, pools
from difflab.runs.sizes import fresh_needed
from difflab.runs.train_set import SHARED

R = -1  # generation of a real image


def shares(config: Config, t: int, n_train: int = 100) -> tuple[list[tuple[str, int, int, int]], int | None]:
    """(kind, generation, rows in the pool, count) of every pool, and the budget."""
    drawn, budget = pools(config, t, n_train, sampled(config, t))
    return [(p.kind, p.generation, len(p.rows), p.count) for p in drawn], budget


def pairs(rows: pa.Table) -> list[tuple[int, int]]:
    return list(zip(rows["generation"].to_pylist(), rows["index"].to_pylist(), strict=True))


def fixed(n: int) -> tuple[str, int, int, int]:
    return ("fixed_real", R, 10, n)


def syn(g: int, count: int = 10, rows: int = 10) -> tuple[str, int, int, int]:
    return ("synthetic", g, rows, count)


# By hand, for n0 = 10 and 10 samples a generation: regime settings -> {t: (pools, budget)}.
TABLE: list[tuple[dict[str, Any], dict[int, tuple[list[tuple[str, int, int, int]], int | None]]]] = [
    ({"name": "replace"}, {0: ([fixed(10)], None), 1: ([syn(0)], None), 3: ([syn(2)], None)}),
    ({"name": "replace", "set_size": 7}, {0: ([fixed(10)], None), 2: ([syn(1)], 7)}),
    (
        {"name": "replace", "synthetic_from": "all"},
        {1: ([syn(0)], None), 3: ([syn(0), syn(1), syn(2)], None)},
    ),
    (
        {"name": "accumulate"},
        {1: ([fixed(10), syn(0)], None), 3: ([fixed(10), syn(0), syn(1), syn(2)], None)},
    ),
    ({"name": "accumulate", "synthetic_from": "last"}, {3: ([fixed(10), syn(2)], None)}),
    (
        {"name": "accumulate_subsample"},
        {0: ([fixed(10)], None), 1: ([fixed(10), syn(0)], 10), 3: ([fixed(10), syn(0), syn(1), syn(2)], 10)},
    ),
    ({"name": "accumulate_subsample", "set_size": 12}, {2: ([fixed(10), syn(0), syn(1)], 12)}),
    (
        {"name": "accumulate_subsample", "stratified": True},
        {1: ([fixed(5), syn(0, 5)], None), 3: ([fixed(3), syn(0, 3), syn(1, 2), syn(2, 2)], None)},
    ),
    ({"name": "fixed_real"}, {1: ([fixed(5), syn(0, 5)], None), 3: ([fixed(5), syn(2, 5)], None)}),
    ({"name": "fixed_real", "real_fraction": 0.2, "set_size": 5}, {2: ([fixed(1), syn(1, 4)], None)}),
    ({"name": "fixed_real", "real_fraction": 0.0}, {2: ([syn(1)], None)}),
    ({"name": "fixed_real", "real_fraction": 1.0}, {2: ([fixed(10)], None)}),
    (
        {"name": "fixed_real", "real_fraction": 0.3, "synthetic_from": "all"},
        {3: ([fixed(3), syn(0, 3), syn(1, 2), syn(2, 2)], None)},
    ),
    (
        {"name": "fresh_real"},
        {1: ([("fresh_real", R, 5, 5), syn(0, 5)], None), 3: ([("fresh_real", R, 5, 5), syn(2, 5)], None)},
    ),
    (
        {"name": "fresh_real", "real_fraction": 0.2, "set_size": 20},
        {1: ([("fresh_real", R, 4, 4), syn(0, 16, 10)], "too many")},
    ),
]


@pytest.mark.parametrize(
    ("regime", "wanted"), TABLE, ids=lambda v: "-".join(str(x) for x in v.values()) if "name" in v else ""
)
def test_each_regime_draws_the_pools_of_the_table(regime, wanted):
    config = chain(**regime)
    for t, (drawn, budget) in wanted.items():
        if budget == "too many":
            with pytest.raises(ConfigError, match="asks for 16 samples of generation 0"):
                shares(config, t)
        else:
            assert shares(config, t) == (drawn, budget), t


@pytest.mark.parametrize(
    ("regime", "sizes"),
    [
        ({"name": "replace"}, [10, 10, 10, 10]),
        ({"name": "replace", "set_size": 6}, [10, 6, 6, 6]),
        ({"name": "accumulate"}, [10, 20, 30, 40]),
        ({"name": "accumulate_subsample"}, [10, 10, 10, 10]),
        ({"name": "accumulate_subsample", "stratified": True}, [10, 10, 10, 10]),
        ({"name": "accumulate_subsample", "stratified": True, "set_size": 7}, [10, 7, 7, 7]),
        ({"name": "fixed_real"}, [10, 10, 10, 10]),
        ({"name": "fixed_real", "real_fraction": 0.37}, [10, 10, 10, 10]),
        ({"name": "fresh_real"}, [10, 10, 10, 10]),
        ({"name": "fresh_real", "real_fraction": 0.33, "synthetic_from": "all"}, [10, 10, 10, 10]),
    ],
    ids=str,
)
def test_set_sizes_are_matched_and_no_image_is_drawn_twice(regime, sizes):
    config = chain(**regime)
    for t, size in enumerate(sizes):
        rows = rows_of(config, t)
        assert len(rows) == size
        assert len(set(pairs(rows))) == size
        assert all(g < t for g, _ in pairs(rows)) and all(0 <= i < 100 for _, i in pairs(rows))
        assert set(rows["replicate"].to_pylist()) == {SHARED}


def test_generations_of_different_size():
    config = chain("accumulate", count=[4, 6, 8], generations=4)
    assert shares(config, 4)[0] == [fixed(10), syn(0, 4, 4), syn(1, 6, 6), syn(2, 8, 8), syn(3, 8, 8)]
    assert [len(rows_of(chain(count=[4, 6, 8]), t)) for t in range(4)] == [10, 4, 6, 8]


def test_what_selection_dropped_is_not_drawn():
    kept = [np.array([1, 3, 5]), np.array([0, 7])]
    rows = rows_of(chain("accumulate"), 2, kept=kept)
    assert pairs(rows)[10:] == [(0, 1), (0, 3), (0, 5), (1, 0), (1, 7)]
    assert pairs(rows_of(chain("replace", set_size=2), 1, kept=kept[:1]))[0][1] in (1, 3, 5)
    with pytest.raises(ConfigError, match="asks for 5 samples of generation 1"):
        pools(chain("fixed_real"), 2, 100, kept)
    with pytest.raises(ConfigError, match="would be empty"):
        pools(chain("replace"), 1, 100, [np.array([], dtype=int)])


def test_fixed_real_images_are_the_same_in_every_generation():
    config = chain("fixed_real", real_fraction=0.3)
    assert [[i for g, i in pairs(rows_of(config, t)) if g == R] for t in (1, 2, 3)] == [[0, 1, 2]] * 3


def test_fresh_real_never_repeats_an_image():
    config = chain("fresh_real", real_fraction=0.3, generations=30)
    check_possible(config, 100)
    seen = [i for t in range(31) for g, i in pairs(rows_of(config, t)) if g == R]
    assert len(seen) == len(set(seen)) == 10 + 30 * 3
    assert sorted(seen) == list(range(100))
    assert fresh_needed(config, 10) == 90


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (chain(n0=101), r"data.train_size asks for 101 real images, the train split has 100"),
        (chain("replace", set_size=11), r"training set 1 has a budget of 11 images, but its pools have 10"),
        (
            chain("replace", set_size=10, count=[10, 10, 9]),
            r"training set 3 has a budget of 10 images, but its pools have 9",
        ),
        (
            chain("accumulate_subsample", set_size=21),
            r"training set 1 has a budget of 21 images, but its pools have 20",
        ),
        (
            chain("fixed_real", real_fraction=0.9, set_size=20),
            r"training set 1 asks for 18 real images \(fixed_real\), but there are only 10",
        ),
        (
            chain("fixed_real", count=4),
            r"training set 1 asks for 5 samples of generation 0 \(synthetic\), but there are only 4; raise sample.count",
        ),
        (
            chain("accumulate_subsample", stratified=True, count=4),
            r"training set 1 asks for 5 samples of generation 0",
        ),
    ],
)
def test_asking_for_more_than_will_exist_is_refused_before_anything_runs(config, said):
    with pytest.raises(ConfigError, match=said):
        check_possible(config, 100)


# ---------------------------------------------------------------------------------------------- replicates
# ---------------------------------------------------------------------------------------------- statistics
def test_the_stratified_draw_takes_other_real_images_in_every_generation():
    config = chain("accumulate_subsample", n0=100, count=100, stratified=True)
    kept = sampled(config, 3)
    real = [{i for g, i in pairs(rows_of(config, t, 200, kept=kept[:t])) if g == R} for t in (1, 2, 3)]
    assert [len(rows) for rows in real] == [50, 34, 25]
    assert not real[2] <= real[1] <= real[0]  # a prefix of the shuffled train split would be nested
