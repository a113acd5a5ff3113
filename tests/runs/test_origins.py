"""Origins and depths of training sets: the recursion, its mean, and runs of older versions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from chains import COPIES, config, ran

from difflab.core.files import read_json, write_json
from difflab.runs.ledger import ORIGIN_COLUMNS
from difflab.runs.origins import COLUMNS, composition, counted, real_origins, sample_depth
from difflab.runs.run import Run, open_run


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = config(base=COPIES, regime={"name": "accumulate"})
    return ran(made, tmp_path_factory.mktemp("origins") / "run")


def test_samples_are_one_deeper_than_the_deepest_image_of_their_training_set(accumulated: Run) -> None:
    assert [sample_depth(accumulated, t)[0] for t in range(4)] == [1, 2, 3, 4]
    for t in range(4):
        shards = accumulated.samples(t)
        assert set(shards.column("depth")) == {t + 1}
        assert set(shards.column("origin")) == {"synthetic"} and set(shards.column("declared_by")) == {"run"}
    assert set(real_origins(accumulated).to_pylist()[0].values()) == {"real", 0, "bundled"}


def test_the_mean_depth_follows_its_recursion(accumulated: Run) -> None:
    """m_t = 1 + mean over the rows of training set t of their mean depths, on equal parts: 0, m_0, m_1, ..."""
    means: list[float] = []
    for _ in range(4):
        means.append(1 + float(np.mean([0.0, *means])))
    stored = [read_json(accumulated.gen(t) / "sampled.json")["mean_depth"] for t in range(4)]
    assert stored == pytest.approx(means)


def test_the_composition_of_training_sets(accumulated: Run) -> None:
    found = composition(accumulated, 3)
    assert (found.images, found.origins) == (160, {"real": 40, "synthetic": 120})
    assert found.depths == {0: 40, 1: 40, 2: 40, 3: 40}
    assert found.synthetic_share == 0.75
    assert composition(accumulated, 0).synthetic_share == 0
    assert set(COLUMNS) <= set(pq.read_schema(accumulated.gen(3) / "train_set.parquet").names)
    assert found.as_dict()["depths"] == {"0": 40, "1": 40, "2": 40, "3": 40}


def test_a_run_of_an_older_version_has_the_same_depths(accumulated: Run, tmp_path: Path) -> None:
    """Its files have no columns of origins, and sampled.json has no depths."""
    import shutil

    old = tmp_path / "old"
    shutil.copytree(accumulated.path, old)
    files = [*old.glob("real/images/*.parquet"), *old.glob("gen-*/samples/*.parquet")]
    for file in [*files, *old.glob("gen-*/train_set.parquet")]:
        table = pq.read_table(file)
        pq.write_table(table.drop_columns([name for name, _ in ORIGIN_COLUMNS]), file)
    for file in old.glob("gen-*/sampled.json"):
        record = read_json(file)
        write_json(file, {key: record[key] for key in ("count", "hash", "probe")})
    run = open_run(old)
    assert [sample_depth(run, t) for t in range(4)] == [sample_depth(accumulated, t) for t in range(4)]
    assert [composition(run, t) for t in range(4)] == [composition(accumulated, t) for t in range(4)]


def test_unknown_images_count_as_the_config_says() -> None:
    origin, depth = ["real", "synthetic", "unknown", None, "synthetic"], [0, 4, None, None, None]
    assert counted(origin, depth, "real").tolist() == [0, 4, 0, 0, 1]
    assert counted(origin, depth, "synthetic").tolist() == [0, 4, 1, 1, 1]
