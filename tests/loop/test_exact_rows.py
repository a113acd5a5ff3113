"""Rows of exact families: mean and normal interval over chains; chains without a number are counted."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from difflab.config import parse
from difflab.loop.chain import run_chain
from difflab.loop.exact_rows import over_chains
from difflab.runs.run import Run

CONFIG = parse(
    {
        "generations": 1,
        "data": {"source": "exact", "train_size": 50},
        "model": {"family": "gaussian", "replicates": 20},
        "measure": {"metrics": []},
        "probe": {"per_condition": 0},
    }
)
RUN: Any = SimpleNamespace(config=CONFIG)


def test_the_interval_is_normal_over_chains():
    chains = np.random.default_rng(0).normal(3.0, 2.0, 400)
    row = over_chains(RUN, 2, "variance", chains, 1.0)
    assert (row["generation"], row["metric"], row["extractor"], row["n"]) == (2, "variance", "model", 400)
    assert row["value"] == pytest.approx(chains.mean()) and row["floor"] == 1.0
    half = 1.96 * chains.std(ddof=1) / 20
    assert row["ci_high"] - row["value"] == pytest.approx(half) == row["value"] - row["ci_low"]


def test_one_chain_has_no_interval():
    row = over_chains(RUN, 0, "variance", np.ones(1), 1.0)
    assert row["value"] == 1.0 and row["ci_low"] is None


def test_chains_without_a_number_are_counted():
    row = over_chains(RUN, 0, "variance", np.array([1.0, np.nan, np.inf]), 1.0)
    assert row["value"] is None and row["reason"] == "2 of 3 chains have no finite variance"


def test_a_run_keeps_the_value_of_every_chain(tmp_path):
    run = run_chain(CONFIG, tmp_path / "run", plots=False)
    assert isinstance(run, Run)
    for row in run.rows():
        chains = load_file(run.gen(row["generation"]) / "replicates.safetensors")[row["metric"]]
        assert len(chains) == row["n"] == 20 and row["value"] == pytest.approx(chains.mean())
        assert np.isfinite(row["floor"])
