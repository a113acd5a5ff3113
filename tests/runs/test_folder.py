from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from difflab import open_run
from difflab.config import parse
from difflab.core.errors import StoreError
from difflab.loop.chain import run_chain
from difflab.runs.run import Run

CONFIG: dict[str, Any] = {
    "name": "small",
    "generations": 1,
    "data": {"source": "digits", "limit": 120, "train_size": 50},
    "model": {"family": "pixel-mlp", "width": 16, "depth": 1},
    "train": {"images_seen": 512},
    "sample": {"count": 40, "steps": 2, "batch_size": 15, "shard_size": 15},
    "measure": {"metrics": ["fd", "recall"], "resamples": 20},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "small"
    run_chain(parse(CONFIG), path)
    return path


def test_the_real_set_is_generation_minus_one(path):
    run = open_run(path)
    assert len(run.samples(-1)) == run.about["n_train"] + run.about["n_held_out"] == 120


def test_the_engine_keeps_decoded_pixels_inside_the_run(tmp_path):
    assert Run(tmp_path, parse(CONFIG)).cache == tmp_path / "cache"


@pytest.mark.parametrize("name", [".notes.tmp", ".templates/letter.txt", "notes.txt"])
def test_a_folder_of_other_things_is_refused_and_left_as_it_was(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    (tmp_path / ".lock").write_text("mine too")
    with pytest.raises(StoreError, match="not empty and contains no run"):
        run_chain(parse(CONFIG), tmp_path)
    assert (tmp_path / name).read_text() == "mine" and (tmp_path / ".lock").read_text() == "mine too"
