from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from chains import COPIES, NUMBERS, checked, config, ran

from difflab.core.errors import ConfigError
from difflab.core.files import read_tensors
from difflab.policies import parse
from difflab.policies.train.real_weight import golden

MIXED = {**COPIES, "regime": {"name": "fixed_real"}}


def rows(real: list[int], synthetic: list[int]) -> pa.Table:
    """Real and synthetic rows of these replicates."""
    generation, replicate = [-1] * len(real) + [2] * len(synthetic), real + synthetic
    return pa.table(
        {"generation": pa.array(generation, pa.int32()), "replicate": pa.array(replicate, pa.int32())}
    )


def given(weight, table: pa.Table) -> np.ndarray:
    return parse({"policy": "real_weight", "weight": weight}).row_weights(None, table)


@pytest.mark.parametrize(("r", "w"), [(0.25, 0.3904), (1, 0.6180), (4, 0.8284)])
def test_the_golden_weight_has_the_least_error(r, w):
    grid = np.linspace(0.001, 0.999, 999)
    error = (grid**2 + r * (1 - grid) ** 2) / (grid * (2 - grid))
    assert golden(r) == pytest.approx(w, abs=5e-5) == pytest.approx(grid[error.argmin()], abs=1e-3)
    assert error.min() == pytest.approx(golden(r), abs=1e-5)  # to the step of the grid


@pytest.mark.parametrize("weight", [0.3, 1, 0.9, "golden"])
def test_real_rows_have_their_weight_together_whatever_their_number(weight):
    for n, k in ((3, 7), (5, 5), (9, 1)):
        found = given(weight, rows([-1] * n, [-1] * k))
        w = golden(n / k) if weight == "golden" else weight
        assert found[:n].sum() / found.sum() == pytest.approx(w)
        assert len(set(found[:n])) == len(set(found[n:])) == 1


def test_the_share_of_rows_is_off_and_sets_of_one_kind_are_left_alone():
    assert given(0.3, rows([-1] * 3, [-1] * 7)) == pytest.approx(np.full(10, 0.1))
    for table in (rows([-1] * 4, []), rows([], [-1] * 4), rows([], [0, 1])):
        assert len(set(given("golden", table).tolist())) == 1


def test_each_of_parallel_chains_has_its_own_numbers():
    table = rows([0, 0, 1], [0, 1, 1, 1, 2, 2])  # chain 2 has samples only
    found, chain = given(0.8, table), table["replicate"].to_numpy()
    for r, share in ((0, 0.8), (1, 0.8), (2, 0.0)):
        own = chain == r
        real = own & (table["generation"].to_numpy() < 0)
        assert found[real].sum() / found[own].sum() == pytest.approx(share)
    shared = given(0.8, rows([-1, -1], [0, 0, 0, 1, 1, 1]))
    assert shared[:2].sum() == pytest.approx(0.8) and shared[2:5].sum() == shared[5:].sum() == pytest.approx(
        0.2
    )


def test_parallel_chains_that_draw_their_own_rows_are_fitted_with_weights_of_mean_1(tmp_path):
    """Rows that all share and rows of one chain: the mean of a chain is that of its own real rows and its own samples, by hand."""
    made = config(
        {"policy": "real_weight", "weight": 0.9},
        base={**NUMBERS, "model": {"family": "gaussian", "replicates": 3}},
        regime={"name": "fresh_real", "real_fraction": 0.25, "set_size": 12},
        generations=1,
    )
    run = ran(made, tmp_path / "run")
    import pyarrow.parquet as pq

    table = pq.read_table(run.gen(1) / "train_set.parquet")
    generation, index, chain = (table[name].to_numpy() for name in ("generation", "index", "replicate"))
    assert set(chain) == {-1, 0, 1, 2}
    model = read_tensors(run.gen(1) / "model" / "gaussian.safetensors")
    for r in range(3):
        own = (chain < 0) | (chain == r)
        real = run.real.gather(index[own & (generation < 0)])[:, r, 0]
        samples = run.samples(0).gather(index[own & (generation == 0)])[:, r, 0]
        assert (len(real), len(samples)) == (3, 9)
        mean = 0.9 * real.mean() + 0.1 * samples.mean()
        assert float(model["mean"][r, 0]) == pytest.approx(mean)
        assert float(model["cov"][r, 0, 0]) == pytest.approx(
            0.9 * ((real - mean) ** 2).mean() + 0.1 * ((samples - mean) ** 2).mean()
        )


@pytest.mark.parametrize(
    ("weight", "sections", "message"),
    [
        (0, {}, r"'weight': the weight must be a number above 0 and up to 1, or golden \(got 0\)"),
        (1.2, {}, "above 0 and up to 1"),
        (True, {}, "above 0 and up to 1"),
        ("gold", {}, "or golden"),
        (None, {}, "or golden"),
        ([0.5], {}, "or golden"),
        (
            0.5,
            {"regime": {"name": "replace"}},
            r"regime\.name=replace trains only on samples; use another regime or real_share",
        ),
    ],
)
def test_bad_input(weight, sections, message):
    with pytest.raises(ConfigError, match=message):
        checked({"policy": "real_weight", "weight": weight}, base=MIXED, **sections)


def test_replace_with_real_images_from_another_policy_is_allowed():
    checked({"policy": "real_share", "start": 0.5, "end": 0.5}, "real_weight", base=COPIES)
    checked(
        {"policy": "guard", "max_synthetic_fraction": 0.5, "mode": "thin", "fill": True},
        "real_weight",
        base=COPIES,
    )
    with pytest.raises(ConfigError, match="trains only on samples"):
        checked(
            {"policy": "guard", "max_synthetic_fraction": 0.5, "mode": "thin"}, "real_weight", base=COPIES
        )
