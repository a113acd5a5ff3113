from __future__ import annotations

import itertools
import time

import numpy as np
import pyarrow as pa
from drawn_rows import chain, rows_of, sampled
from scipy import stats

from difflab.loop.mix import draw_rows
from difflab.loop.regimes import pools
from difflab.runs.train_set import SHARED, Pool

R = -1  # generation of a real image


def pairs(rows: pa.Table) -> list[tuple[int, int]]:
    return list(zip(rows["generation"].to_pylist(), rows["index"].to_pylist(), strict=True))


def test_mixing_repeats_itself_and_differs_by_generation_and_seed():
    config = chain("accumulate_subsample")
    assert rows_of(config, 3).equals(rows_of(config, 3))
    drawn, budget = pools(config, 3, 100, sampled(config, 3))
    assert not draw_rows(drawn, budget, ("mix", 0, 3)).equals(draw_rows(drawn, budget, ("mix", 1, 3)))
    assert not draw_rows(drawn, budget, ("mix", 0, 3)).equals(draw_rows(drawn, budget, ("mix", 0, 4)))


def test_the_columns_are_pointers_of_fixed_type():
    rows = rows_of(chain("accumulate"), 2)
    assert rows.schema.names == ["pool", "lab", "generation", "index", "replicate"]
    assert [str(rows.schema.field(n).type) for n in ("generation", "index", "replicate")] == [
        "int32",
        "int64",
        "int32",
    ]
    assert rows["pool"].to_pylist() == ["fixed_real"] * 10 + ["synthetic"] * 20


def test_pools_taken_whole_are_shared_by_all_replicates():
    for name in ("replace", "accumulate"):
        rows = rows_of(chain(name), 2, replicates=6)
        assert set(rows["replicate"].to_pylist()) == {SHARED}
        assert len(rows) == {"replace": 10, "accumulate": 30}[name]


def test_what_is_drawn_at_random_is_drawn_for_each_replicate_on_its_own():
    rows = rows_of(chain("accumulate_subsample"), 3, replicates=6).to_pandas()
    assert sorted(rows["replicate"].unique()) == list(range(6))
    draws = [frozenset(zip(d["generation"], d["index"], strict=True)) for _, d in rows.groupby("replicate")]
    assert [len(d) for d in draws] == [10] * 6
    assert len(set(draws)) == 6


def test_real_rows_shared_and_synthetic_rows_per_replicate():
    rows = rows_of(chain("fixed_real", real_fraction=0.4), 2, replicates=3).to_pandas()
    assert (rows[rows["pool"] == "fixed_real"]["replicate"] == SHARED).all() and (
        rows["pool"] == "fixed_real"
    ).sum() == 4
    assert rows[rows["pool"] == "synthetic"].groupby("replicate").size().to_dict() == {0: 6, 1: 6, 2: 6}


def test_accumulate_subsample_draws_uniformly_over_the_union():
    config, t, replicates = chain("accumulate_subsample"), 3, 2000
    rows = rows_of(config, t, replicates=replicates).to_pandas()
    # Real images in a draw of 10 of 40, 10 of them real: hypergeometric in every replicate.
    real = (
        rows[rows["generation"] == R]
        .groupby("replicate")
        .size()
        .reindex(range(replicates), fill_value=0)
        .to_numpy()
    )
    law = stats.hypergeom(40, 10, 10)
    assert abs(real.mean() - law.mean()) / (law.std() / np.sqrt(replicates)) < 4
    assert abs(real.var(ddof=1) / law.var() - 1) < 4 * np.sqrt(2 / replicates)
    # Every one of the 40 images equally often.
    often = rows.groupby(["generation", "index"]).size().to_numpy()
    assert len(often) == 40
    assert (abs(often - replicates / 4) / np.sqrt(replicates * 0.25 * 0.75) < 4).all()


def test_draws_of_different_generations_are_independent():
    config = chain("replace", set_size=5, generations=400)
    first = [0 in rows_of(config, t, kept=[np.arange(10)] * t)["index"].to_pylist() for t in range(1, 401)]
    z = (np.mean(first) - 0.5) / (0.5 / 20)
    both = np.mean([a and b for a, b in itertools.pairwise(first)])
    assert abs(z) < 4 and abs(both - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 399) * 1.3


def test_twenty_generations_of_ten_thousand_are_rows_only():
    config = chain("accumulate_subsample", n0=10_000, count=10_000, generations=20)
    started = time.process_time()
    rows = rows_of(config, 20, n_train=10_000)
    assert time.process_time() - started < 1.0
    assert len(rows) == 10_000 and rows.nbytes < 10_000 * 24
    whole = rows_of(chain("accumulate", n0=10_000, count=10_000, generations=20), 20, n_train=10_000)
    assert len(whole) == 210_000 and whole.nbytes < 210_000 * 24


def test_a_budget_as_large_as_the_union_takes_it_whole():
    drawn = [Pool("fixed_real", R, np.arange(3), 3), Pool("synthetic", 0, np.arange(2), 2)]
    rows = draw_rows(drawn, 5, ("x",), replicates=4)
    assert pairs(rows) == [(R, 0), (R, 1), (R, 2), (0, 0), (0, 1)]
    assert set(rows["replicate"].to_pylist()) == {SHARED}
