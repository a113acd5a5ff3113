"""Looking at a run: ``difflab.open_run``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from difflab import open_run
from difflab.config import parse
from difflab.core.errors import StoreError
from difflab.core.rows import KEYS
from difflab.loop.chain import run_chain

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


@pytest.fixture
def copy(path, tmp_path) -> Path:
    return Path(shutil.copytree(path, tmp_path / "small"))


def content(path: Path) -> dict[str, int]:
    return {str(p.relative_to(path)): p.stat().st_mtime_ns for p in path.rglob("*")}


def test_metrics_are_the_lines_of_metrics_jsonl_as_a_frame(path):
    frame = open_run(path).metrics
    assert isinstance(frame, pd.DataFrame) and tuple(frame.columns) == KEYS
    taken = frame[frame.extractor != "training"]
    assert sorted(set(zip(taken.generation, taken.metric, strict=True))) == [
        (t, m) for t in (0, 1) for m in ("fd", "flagged_share", "recall")
    ]
    assert frame.recipe.str.fullmatch("[0-9a-f]{12}").all()
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [None if value != value else value for value in frame.value] == [line["value"] for line in lines]


def test_a_run_without_numbers_has_an_empty_frame_with_the_same_columns(copy):
    for t in (0, 1):
        (copy / f"gen-00{t}" / "metrics.jsonl").unlink()
    run = open_run(copy)
    assert run.generations == [] and tuple(run.metrics.columns) == KEYS and len(run.metrics) == 0


def test_samples_open_with_table_labels_and_pixels(path):
    samples = open_run(path).samples(1)
    assert len(samples) == 40 and list(samples.shards) == [0, 1, 2]
    table = samples.table(2)
    assert table["index"].to_pylist() == list(range(30, 40)) and set(table["kind"].to_pylist()) == {
        "synthetic"
    }
    labels = samples.labels()
    assert labels.dtype == np.int64 and labels[30:].tolist() == table["label"].to_pylist()
    picked = samples.gather(np.array([39, 0, 17]))
    assert picked.shape == (3, 8, 8, 1) and picked.dtype == np.uint8
    assert (
        (picked[0] == samples.decode(2)[9]).all()
        and (picked[1] == samples.decode(0)[0]).all()
        and (picked[2] == samples.decode(1)[2]).all()
    )


def test_training_and_timings_are_there_to_read(path):
    run = open_run(path)
    assert (
        run.training(1)["images_seen"] == 512
        and run.training(1)["set_size"] == 40
        and run.training(0)["set_size"] == 50
    )
    assert len(run.training(1)["loss"]) > 0
    times = run.timings()
    assert [(x["generation"], x["stage"]) for x in times] == [
        (t, s) for t in (0, 1) for s in ("mix", "train", "sample", "select", "measure")
    ]
    assert all(x["seconds"] >= 0 for x in times)


def test_pictures_and_curves_are_objects_to_work_with(path):
    run = open_run(path)
    assert run.grid(1).size == run.grid(0).size and run.grid(1).tobytes() != run.grid(0).tobytes()
    assert run.strip().height > run.grid(0).height
    titles = [axis.get_title() for axis in run.curves().axes if axis.axison]
    assert [t.partition(" (")[0] for t in titles if "training" not in t] == ["fd", "recall"]


def test_looking_changes_nothing_and_leaves_nothing_behind(path, tmp_path, monkeypatch):
    import atexit
    import tempfile

    at_exit: list[Any] = []
    monkeypatch.setattr(
        atexit, "register", lambda work, *args, **kwargs: at_exit.append(lambda: work(*args, **kwargs))
    )
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = content(path)
    run = open_run(path)
    run.strip(), run.grid(0), run.curves(), run.metrics, run.samples(1).gather(np.arange(3))
    assert content(path) == before
    open_run(path).samples(1).gather(np.arange(3))  # of a Run that is gone
    assert list(tmp_path.rglob("*.npy"))
    for work in at_exit:
        work()
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- trouble
def test_a_place_without_a_run_names_those_beside_it(path, tmp_path):
    with pytest.raises(
        StoreError, match=r"smal is not the folder of a run \(no run.yaml\); runs beside it: small"
    ):
        open_run(path.parent / "smal")
    with pytest.raises(StoreError, match=r"start one with: difflab run digits"):
        open_run(tmp_path / "nowhere" / "x")


@pytest.mark.parametrize(
    "content",
    [b'{"generation": 0', b"5\n", b'{"a": 1}\n', b"\xff\n", b"null"],
    ids=["half", "number", "foreign", "binary", "null"],
)
def test_damaged_numbers_are_a_store_error_and_the_same_command_mends_them(copy, content):
    whole = (copy / "metrics.jsonl").read_bytes()
    place = copy / "gen-001" / "metrics.jsonl"
    place.write_bytes(content)
    run = open_run(copy)
    for look in (run.rows, lambda: run.metrics, run.curves):
        with pytest.raises(
            StoreError, match=r"gen-001/metrics.jsonl is damaged .*; delete it and run the same command again"
        ):
            look()
    place.unlink()
    run_chain(parse(CONFIG), copy)
    assert open_run(copy).metrics.value.tolist() and (copy / "metrics.jsonl").read_bytes() == whole


def test_damaged_times_are_a_store_error_and_unfinished_ones_are_left_out(copy):
    times = open_run(copy).timings()
    with open(copy / "timings.jsonl", "a") as handle:
        handle.write('{"generation": 0, "sta')  # as a process leaves it that was killed
    assert open_run(copy).timings() == times
    with open(copy / "timings.jsonl", "a") as handle:
        handle.write("\n")
    with pytest.raises(StoreError, match=r"timings.jsonl is damaged .* it contains only times: delete it"):
        open_run(copy).timings()


def test_pictures_that_are_not_there_are_said(copy, tmp_path):
    with pytest.raises(StoreError, match=r"no pictures of generation 2; it has \[0, 1\]"):
        open_run(copy).grid(2)
    for t in (0, 1):
        (copy / f"gen-00{t}" / "sampled.json").unlink()
    for look in (lambda: open_run(copy).grid(0), lambda: open_run(copy).strip()):
        with pytest.raises(StoreError, match="no pictures of generation 0; it has none"):
            look()
    exact = parse(
        {
            "data": {"source": "exact", "train_size": 9},
            "model": {"family": "gaussian"},
            "generations": 0,
            "sample": {"count": 9},
        }
    )
    run_chain(exact, tmp_path / "exact")
    with pytest.raises(StoreError, match=r"its family draws numbers, or probe.per_condition is 0"):
        open_run(tmp_path / "exact").strip()
