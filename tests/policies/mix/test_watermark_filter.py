from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from chains import DIGITS, config
from made import NUMBERS, checked

from difflab.core.errors import ConfigError
from difflab.core.files import read_json
from difflab.core.shape import Shape
from difflab.features.spread_spectrum import agreements, detected
from difflab.loop.chain import run_chain
from difflab.policies import acting, parse

MARK = {"policy": "watermark", "key": 7, "strength": 60, "share": 0.5}
TINY = {
    **DIGITS,
    "generations": 1,
    "train": {**DIGITS["train"], "images_seen": 64, "checkpoint_every": 0},
    "sample": {**DIGITS["sample"], "steps": 1},
    "regime": {"name": "accumulate"},
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Real images and samples, of which half are marked."""
    said = tmp_path_factory.mktemp("filter")
    return run_chain(config(MARK, {"policy": "watermark_filter", "key": 7}, base=TINY), said / "run")


def test_it_removes_what_is_detected_and_counts_it(chain):
    rows = pq.read_table(chain.gen(1) / "train_set.parquet").to_pandas()
    used = rows[rows.generation == 0]["index"].to_numpy()
    samples = chain.samples(0).gather(np.arange(80))
    found = detected(agreements(torch.from_numpy(samples), 7)).numpy()
    assert used.tolist() == np.flatnonzero(~found).tolist() and 20 < found.sum() < 60
    record = read_json(chain.gen(1) / "watermark_filter.json")
    assert record["samples_read"] == record["real_read"] == 80
    assert record["samples_removed"] == found.sum()
    assert record["real_removed"] == 80 - (rows.generation == -1).sum() < 20
    assert not (chain.gen(0) / "watermark_filter.json").exists()


def test_another_key_removes_little(chain):
    ((own, at),) = acting("rows", config({"policy": "watermark_filter", "key": 99}, base=TINY), 1, run=chain)
    table = {
        "generation": pa.array([0] * 80, pa.int32()),
        "index": pa.array(range(80)),
        "replicate": [-1] * 80,
    }
    assert own.found(at, pa.table(table)).mean() < 0.2


def test_a_training_set_with_nothing_left_is_refused(chain):
    marked = np.flatnonzero(detected(agreements(torch.from_numpy(chain.samples(0).gather(np.arange(80))), 7)))
    ((own, at),) = acting("rows", config({"policy": "watermark_filter", "key": 7}, base=TINY), 1, run=chain)
    n = len(marked)
    rows = pa.table(
        {"generation": pa.array([0] * n, pa.int32()), "index": pa.array(marked), "replicate": [-1] * n}
    )
    with pytest.raises(ConfigError, match=rf"removes all {n} images of training set 1; add images without"):
        own.rows(at, rows)


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match="'key' is missing"):
        checked("watermark_filter")
    for rate in (0, 1):
        with pytest.raises(ConfigError, match="'false_positive_rate'"):
            checked({"policy": "watermark_filter", "key": 7, "false_positive_rate": rate})
    with pytest.raises(ConfigError, match=r"reads images, but .*family=categorical are numbers"):
        checked({"policy": "watermark_filter", "key": 7}, base=NUMBERS)
    with pytest.raises(ConfigError, match="needs images of 16 or more pixels a side at chip=2"):
        parse({"policy": "watermark_filter", "key": 7, "chip": 2}).check_shape(Shape((8, 8, 1)))
