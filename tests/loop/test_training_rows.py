"""Rows about the training: in every family that denoises, from the files that it wrote."""

import json
import math
import shutil
from functools import partial
from typing import Any

import numpy as np
import pytest
import tiny

from difflab.config import Config, parse
from difflab.core.errors import StoreError
from difflab.core.rows import KEYS
from difflab.loop.chain import run_chain
from difflab.loop.training_rows import measure_training
from difflab.runs.run import Run

run_chain = partial(run_chain, plots=False)  # curves take seconds
pytestmark = tiny.LIBRARIES
BASE: dict[str, Any] = {
    "generations": 1,
    "data": {"source": "digits", "train_size": 80},
    "model": {"family": "pixel-mlp", "width": 32, "depth": 1},
    "train": {"images_seen": 1280, "batch_size": 64, "learning_rate": 3e-3},
    "sample": {"count": 60, "steps": 3, "shard_size": 30, "batch_size": 30},
    "probe": {"per_condition": 0},
    "measure": {"metrics": [], "held_out_loss": 50},
}
LOSSES = ["held_out_loss", *(f"held_out_loss_{i}" for i in (1, 2, 3, 4)), "held_out_loss_rare", "loss_gap"]


def digits(**changes: Any) -> Config:
    return parse({**BASE, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("held") / "run")


def training(run: Run, generation: int) -> dict[str, dict[str, Any]]:
    return {
        r["metric"]: r for r in run.rows() if r["generation"] == generation and r["extractor"] == "training"
    }


def test_rows_of_a_run(run):
    for t in (0, 1):
        rows = training(run, t)
        drifts = ["drift_from_base", *(["drift_from_previous"] if t else [])]
        assert list(rows) == ["clipped_share", "gradient_norm", "train_loss", *drifts, *LOSSES]
        for name, r in rows.items():
            assert (
                tuple(r) == KEYS
                and r["floor"] is None
                and r["reason"] is None
                and math.isfinite(r["value"])
                and len(r["recipe"]) == 12
            )
            assert (r["ci_low"] is None) == (name not in LOSSES)
        assert (
            rows["train_loss"]["n"] == 20
            and rows["held_out_loss"]["n"] == 50
            and 0 < rows["held_out_loss_rare"]["n"] < 50
        )
        written = json.loads((run.gen(t) / "held_out_loss.json").read_text())
        assert rows["held_out_loss"]["value"] == written["measures"]["held_out_loss"]["value"]
        assert sum(c["n"] for c in written["classes"].values()) == 50
        by_class = np.average(
            [c["value"] for c in written["classes"].values()],
            weights=[c["n"] for c in written["classes"].values()],
        )
        assert by_class == pytest.approx(rows["held_out_loss"]["value"])
        assert np.mean([rows[f"held_out_loss_{i}"]["value"] for i in (1, 2, 3, 4)]) == pytest.approx(
            rows["held_out_loss"]["value"]
        )
    assert training(run, 0)["drift_from_base"]["value"] == 0 < training(run, 1)["drift_from_base"]["value"]
    assert training(run, 1)["drift_from_base"]["value"] == training(run, 1)["drift_from_previous"]["value"]
    recipes = [{r["metric"]: r["recipe"] for r in training(run, t).values()} for t in (0, 1)]
    assert recipes[0].items() <= recipes[1].items() and len(set(recipes[1].values())) == len(recipes[1])


def test_a_damaged_file_is_named_and_a_missing_one_is_not_missed(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    copy = Run(tmp_path / "run", run.config)
    path = copy.gen(1) / "held_out_loss.json"
    for content in (
        "{",
        "[]",
        '{"measures": {"held_out_loss": 3}}',
        '{"measures": {"held_out_loss": {"value": 1}}}',
    ):
        path.write_text(content)
        with pytest.raises(StoreError, match=r"held_out_loss\.json is (missing or )?damaged"):
            measure_training(copy, 1)
    path.unlink()
    names = [r["metric"] for r in measure_training(copy, 1)]
    assert names == ["clipped_share", "gradient_norm", "train_loss", "drift_from_base", "drift_from_previous"]
    record = json.loads((copy.gen(1) / "training.json").read_text())
    (copy.gen(1) / "training.json").write_text(
        json.dumps({key: value for key, value in record.items() if key not in ("means", "steps")})
    )
    assert [r["metric"] for r in measure_training(copy, 1)] == names[3:]  # what an earlier version left


def test_families_fitted_by_a_formula_have_no_training_rows(tmp_path):
    for name, changes in (
        ("memoriser", {"data": {"source": "digits", "train_size": 20}, "sample": {"count": 20}}),
        ("gaussian", {"data": {"source": "exact", "train_size": 20}, "sample": {"count": 20}}),
    ):
        config = parse(
            {
                "generations": 0,
                "model": {"family": name},
                "probe": {"per_condition": 0},
                "measure": {"metrics": []},
                **changes,
            }
        )
        assert training(run_chain(config, tmp_path / name), 0) == {}


@pytest.mark.parametrize(
    ("kind", "model"), [("sd15", {"lora_rank": 2}), ("sd15", {"generation_0": "base"}), ("sd3", {})]
)
def test_latent_families_have_the_rows_too(kind, model, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFLAB_CACHE", str(tmp_path / "cache"))
    config = tiny.config(
        kind,
        tiny.make(kind, tmp_path / kind),
        model=model,
        data={"held_out": 0.3},
        measure={"held_out_loss": 8},
    )
    run = run_chain(config, tmp_path / "run")
    for t in (0, 1):
        rows = training(run, t)
        assert rows["held_out_loss"]["n"] == rows["loss_gap"]["n"] == 8 and rows["held_out_loss"]["value"] > 0
        if t or model.get("generation_0") != "base":
            assert {"train_loss", "gradient_norm"} <= set(rows)
        else:
            assert (
                "train_loss" not in rows
                and rows["drift_from_base"]["value"] == 0
                and rows["drift_from_base"]["n"] == 0
            )
    own = training(run, 0)["drift_from_base"]["value"]
    assert (own == 0) == bool(
        model
    )  # LoRA layers are compared with generation 0's, whole weights with the base's
    assert training(run, 1)["drift_from_base"]["value"] > 0 < training(run, 1)["drift_from_previous"]["value"]
    cached = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache" / "latents").rglob("*.npy")}
    assert cached
    before = (run.path / "metrics.jsonl").read_bytes()
    shutil.rmtree(run.gen(1) / "model")
    run_chain(config, tmp_path / "run")
    assert (run.path / "metrics.jsonl").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in cached} == cached  # encoded once
