"""The chain of the image families: where generations start, what regimes cost, extending, and the memoriser's law."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from difflab.config import Config, parse
from difflab.core.errors import ConfigError, StoreError, TrainingError
from difflab.core.seeds import seed_of
from difflab.loop import training_loop as train
from difflab.loop.chain import run_chain
from difflab.metrics import open_extractor
from difflab.metrics.covariance import trace_of_covariance
from difflab.models.ema import Average
from difflab.runs.run import Run
from difflab.runs.store import Shards
from difflab.runs.train_set import TrainSet
from difflab.studies.closed_forms import fresh, polya, subsampled

BASE: dict[str, Any] = {
    "generations": 2,
    "data": {"source": "digits", "train_size": 80},
    "model": {"family": "pixel-mlp", "width": 32, "depth": 1},
    "train": {"images_seen": 1280, "batch_size": 64, "learning_rate": 3e-3, "checkpoint_every": 320},
    "sample": {"count": 60, "steps": 3, "shard_size": 30, "batch_size": 30},
    "probe": {"per_condition": 1},
    "measure": {"metrics": ["trace_ratio", "recall"], "resamples": 20, "held_out_loss": 0},
}
NOT_COMPARED = {"timings.jsonl", "strip.png", "curves.png", "run.yaml"}


def digits(**changes: Any) -> Config:
    return parse({**BASE, **changes})


def content(path: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name not in NOT_COMPARED and not p.name.startswith(".lease-")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("chain") / "run", plots=True)


def weights(run: Run, generation: int) -> dict[str, torch.Tensor]:
    return load_file(run.gen(generation) / "model" / "unet" / "diffusion_pytorch_model.safetensors")


# --------------------------------------------------------------------------------------- files of a run
def test_a_chain_of_images_leaves_every_result_and_nothing_that_can_run_code(whole):
    files = set(content(whole.path))
    for t in range(3):
        own = {f.removeprefix(f"gen-{t:03d}/") for f in files if f.startswith(f"gen-{t:03d}/")}
        assert own >= {"train_set.parquet", "training.json", "model/hash.json", "samples/00000.parquet", "samples/00001.parquet", "probe/00000.parquet",
                       "sampled.json", "selected.parquet", "metrics.jsonl", "grid.png"}  # fmt: skip
        assert "checkpoint.safetensors" not in own
    assert {p.suffix for p in whole.path.rglob("*") if p.is_file()} == {
        "",
        ".yaml",
        ".json",
        ".jsonl",
        ".parquet",
        ".safetensors",
        ".png",
    }
    assert (
        (whole.path / "strip.png").exists()
        and (whole.path / "curves.png").exists()
        and not (whole.path / "cache").exists()
    )


def test_a_checkpoint_is_safetensors_too(tmp_path, monkeypatch):
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Average, "copy_to", stop)
    with pytest.raises(KeyboardInterrupt):
        run_chain(digits(generations=0), tmp_path / "run")
    home = tmp_path / "run" / "gen-000"
    assert [p.name for p in home.iterdir()] and {p.suffix for p in home.rglob("*") if p.is_file()} == {
        ".parquet",
        ".safetensors",
    }
    assert any(name.startswith("optimizer.") for name in load_file(home / "checkpoint.safetensors"))


@pytest.mark.parametrize(
    "victims",
    [
        ["gen-001/model"],
        ["gen-001/samples/00001.parquet", "gen-001/sampled.json"],
        ["gen-002/metrics.jsonl", "gen-001/probe"],
        ["metrics.jsonl"],
    ],
    ids=lambda v: "+".join(v),
)
def test_whatever_was_lost_is_made_again_byte_for_byte(whole, tmp_path, victims):
    shutil.copytree(whole.path, tmp_path / "run")
    for name in victims:
        victim = tmp_path / "run" / name
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    (tmp_path / "run" / "gen-001" / "sampled.json").unlink(missing_ok=True)
    run_chain(digits(), tmp_path / "run")
    assert content(tmp_path / "run") == content(whole.path)


def test_half_written_things_of_a_killed_process_are_cleared(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    home = tmp_path / "run" / "gen-001"
    shutil.move(home / "model", home / ".model.tmp")  # a folder
    (home / ".train_set.parquet.123.tmp").write_bytes(b"half")
    run_chain(digits(), tmp_path / "run")
    assert content(tmp_path / "run") == content(whole.path)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".run.yaml.123.tmp").write_bytes(b"half")  # killed before there was a run.yaml
    run_chain(digits(generations=0), tmp_path / "new")
    assert not list((tmp_path / "new").rglob("*.tmp"))


# -------------------------------------------------------------------------------------------- start_from
def test_start_from_says_where_the_weights_start(whole, tmp_path):
    """With a learning rate of next to nothing the weights of a generation stay where they started."""
    still = {**BASE["train"], "images_seen": 64, "learning_rate": 1e-30, "checkpoint_every": 0}

    def started(start: str) -> list[dict[str, torch.Tensor]]:
        config = digits(
            train={**still, "start_from": start}, measure={"metrics": []}, probe={"per_condition": 0}
        )
        path = tmp_path / start
        run_chain(digits(**{**config.model_dump(mode="json"), "generations": 0}), path)
        # Give generation 0 trained weights, so that base and previous are told from scratch.
        shutil.copy(
            whole.gen(0) / "model/unet/diffusion_pytorch_model.safetensors",
            path / "gen-000/model/unet/diffusion_pytorch_model.safetensors",
        )
        run_chain(digits(**{**config.model_dump(mode="json"), "generations": 1}), path)
        shutil.copy(
            whole.gen(1) / "model/unet/diffusion_pytorch_model.safetensors",
            path / "gen-001/model/unet/diffusion_pytorch_model.safetensors",
        )
        run = run_chain(config, path)
        return [weights(run, t) for t in range(3)]

    def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
        return all(torch.allclose(a[name], b[name], atol=1e-7, rtol=0) for name in a)

    trained = [weights(whole, t) for t in range(2)]
    assert not equal(*trained)
    assert equal(started("base")[2], trained[0])
    assert equal(started("previous")[2], trained[1])
    scratch = started("scratch")[2]
    assert not equal(scratch, trained[0]) and not equal(scratch, trained[1])
    again = weights(
        run_chain(
            digits(train=still, seed=0, measure={"metrics": []}, probe={"per_condition": 0}),
            tmp_path / "again",
        ),
        2,
    )
    assert equal(scratch, again)  # new weights are a function of seed and generation alone
    assert not equal(again, weights(Run(tmp_path / "again", digits(train=still)), 1))


def test_it_is_the_averaged_weights_that_are_saved_and_sample(tmp_path):
    quick = {"measure": {"metrics": []}, "probe": {"per_condition": 0}, "generations": 0}
    averaged = run_chain(digits(**quick, train={**BASE["train"], "ema_decay": 0.99}), tmp_path / "a")
    raw = run_chain(digits(**quick, train={**BASE["train"], "ema_decay": 0}), tmp_path / "b")
    assert not torch.equal(weights(averaged, 0)["into.weight"], weights(raw, 0)["into.weight"])
    assert averaged.training(0) == raw.training(0)
    assert averaged.samples(0).hash() != raw.samples(0).hash()


# --------------------------------------------------------------------------------------- regimes on images
MEMORISER: dict[str, Any] = {
    "data": {"source": "digits", "train_size": 30},
    "model": {"family": "memoriser"},
    "sample": {"count": 30},
    "probe": {"per_condition": 0},
    "measure": {"metrics": []},
}


def test_accumulate_points_at_images_and_copies_none(tmp_path):
    run = run_chain(digits(regime={"name": "accumulate"}, generations=4), tmp_path / "run")
    for t in range(5):
        rows = pq.read_table(run.gen(t) / "train_set.parquet")
        assert len(rows) == 80 + 60 * t and set(rows.column_names) == {
            "pool",
            "lab",
            "generation",
            "index",
            "replicate",
            "origin",
            "depth",
            "declared_by",
        }
    blobs = [
        b["bytes"]
        for t in range(-1, 5)
        for k in run.samples(t).shards
        for b in run.samples(t).table(k, ["image"])["image"].to_pylist()
    ]
    assert len(blobs) == run.about["n_train"] + run.about["n_held_out"] + 5 * 60
    sets = sum(p.stat().st_size for p in run.path.rglob("train_set.parquet"))
    images = sum(p.stat().st_size for p in run.path.rglob("samples/*.parquet"))
    assert sets < 0.2 * images  # 5 sets that name 1,000 images together, against 300 images
    kinds = {p.parent.name for p in run.path.rglob("*.parquet")}
    assert kinds == {"images", "samples", "probe"} | {f"gen-{t:03d}" for t in range(5)}


def test_memory_does_not_grow_with_the_generations(tmp_path, monkeypatch):
    """A batch brings its own bytes into memory; the sets behind it stay mapped files, however many there are."""
    made: list[int] = []
    gather = Shards.gather

    def watched(self: Shards, indices: np.ndarray) -> np.ndarray:
        out = gather(self, indices)
        made.append(out.nbytes)
        assert all(isinstance(a, np.memmap) and a.mode == "r" for a in self._open.values())
        return out

    run = run_chain(
        digits(regime={"name": "accumulate"}, generations=4, measure={"metrics": []}), tmp_path / "run"
    )
    monkeypatch.setattr(Shards, "gather", watched)
    for t in range(5):
        data = TrainSet(pq.read_table(run.gen(t) / "train_set.parquet"), run.samples)
        made.clear()
        at = train.order(len(data), 64, 0, (0, t))
        assert data.inputs(at).nbytes == sum(made) == 64 * 64


def test_fresh_real_never_uses_a_real_image_twice(tmp_path):
    regime = {"name": "fresh_real", "real_fraction": 0.4}
    run = run_chain(parse({**MEMORISER, "generations": 5, "regime": regime}), tmp_path / "run")
    keys, split = run.real.column("key"), run.real.column("split")
    used: list[str] = []
    for t in range(6):
        rows = pq.read_table(run.gen(t) / "train_set.parquet").to_pylist()
        own = [keys[r["index"]] for r in rows if r["generation"] == -1]
        assert len(own) == (30 if t == 0 else 12) and len(rows) == 30
        assert all(split[r["index"]] == "train" for r in rows if r["generation"] == -1)
        used += own
    assert len(set(used)) == len(used) == 30 + 5 * 12
    with pytest.raises(ConfigError, match="fresh_real runs out of unseen real images at generation"):
        run_chain(parse({**MEMORISER, "generations": 500, "regime": regime}), tmp_path / "run")


# ------------------------------------------------------------------------------- extending, other recipes
def test_more_generations_extend_a_finished_run(whole, tmp_path):
    run_chain(digits(generations=1), tmp_path / "run")
    before = content(tmp_path / "run")
    run_chain(digits(generations=2), tmp_path / "run")
    after = content(tmp_path / "run")
    assert after == content(whole.path)
    assert {name for name in before if after[name] != before[name]} == {"metrics.jsonl"}
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["generation"] == 2


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"seed": 1}, ["seed"]),
        (
            {"train": {**BASE["train"], "learning_rate": 1e-3, "ema_decay": 0.5}},
            ["train.learning_rate", "train.ema_decay"],
        ),
        ({"model": {**BASE["model"], "width": 33}}, ["model.width"]),
        (
            {"sample": {**BASE["sample"], "scheduler_options": {"clip_sample": False}}},
            ["sample.scheduler_options"],
        ),
        ({"measure": {**BASE["measure"], "neighbours": 4}}, ["measure.neighbours"]),
        ({"generations": 9, "regime": {"name": "accumulate"}}, ["regime.name"]),
    ],
    ids=str,
)
def test_any_other_change_is_refused_by_its_keys(whole, changes, keys):
    before = content(whole.path)
    with pytest.raises(StoreError, match="contains a run of another recipe") as error:
        run_chain(digits(**changes), whole.path)
    assert all(f"{key}: " in str(error.value) for key in keys)
    assert all(
        f"{key}: " not in str(error.value) for key in ("generations", "data.source", "checkpoint_every")
    )
    assert content(whole.path) == before


def test_name_and_checkpoints_may_change(whole):
    before = content(whole.path)
    run_chain(digits(name="other", train={**BASE["train"], "checkpoint_every": 0}), whole.path)
    assert content(whole.path) == before


def test_an_unknown_scheduler_is_found_before_anything_is_trained(tmp_path):
    with pytest.raises(ConfigError, match="DDIMScheduler"):
        run_chain(digits(sample={**BASE["sample"], "scheduler": "DDIMSheduler"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_diverged_training_leaves_no_model(tmp_path):
    with pytest.raises(
        TrainingError, match=r"the loss is (nan|inf) in gen-000 after \d+ images, first in layer"
    ):
        run_chain(
            digits(train={**BASE["train"], "images_seen": 64_000, "learning_rate": 1e10, "gradient_clip": 0}),
            tmp_path / "run",
        )
    assert not (tmp_path / "run" / "gen-000" / "model").exists()


# ------------------------------------------------------------------------------------- the memoriser's law
CHAINS, N = 16, 20


@pytest.mark.parametrize(
    ("regime", "law"),
    [
        ({"name": "replace"}, lambda t: (1 - 1 / N) ** t),
        ({"name": "accumulate"}, lambda t: polya(N, t)),
        ({"name": "accumulate_subsample"}, lambda t: subsampled(N, t)),
        ({"name": "fresh_real", "real_fraction": 0.5}, lambda t: (1 - 1 / N) * fresh(N, 0.5)),
    ],
    ids=lambda p: p.get("name") if isinstance(p, dict) else "",
)
def test_the_memoriser_on_real_digits_obeys_the_trace_ratio_law(tmp_path, monkeypatch, regime, law):
    """Through the files, the features and `trace_ratio`: E trace(samples of g) = trace(training set 0) law(g + 1), |z| < 4.

    The measure divides by held-out images and its floor divides those by training set 0, so value * floor is the ratio of the
    law. The laws are about pairs of draws alone and so hold for any images. Under fresh_real the limit is relative to the real
    images as a population (the train split, variance over n - 1). 16 chains with their own split and draws are the replicates.
    """
    monkeypatch.setattr(
        "difflab.core.files.os.fsync", lambda handle: None
    )  # thousands of small files that nobody wants to survive
    monkeypatch.setattr("difflab.loop.chain.draw_pictures", lambda work, generation: None)
    changes = {
        "generations": 4,
        "regime": regime,
        "sample": {"count": N},
        "measure": {"metrics": ["trace_ratio"], "resamples": 0},
    }
    config = parse({**MEMORISER, **changes, "data": {"source": "digits", "train_size": N, "limit": 200}})
    ratios = []
    for chain in range(CHAINS):
        run = run_chain(config.model_copy(update={"seed": seed_of("law", chain)}), tmp_path / str(chain))
        rows = [r for r in run.rows() if r["metric"] == "trace_ratio"]
        assert {r["n"] for r in rows} == {N}
        ratio = np.array([r["value"] * r["floor"] for r in rows])
        if regime["name"] == "fresh_real":
            real = run.real.features(open_extractor("pixels").key)[: run.about["n_train"]]
            ratio *= trace_of_covariance(real[:N]) / (trace_of_covariance(real) * len(real) / (len(real) - 1))
        ratios.append(ratio)
    for g in (3, 4) if regime["name"] == "fresh_real" else (0, 1, 2, 4):
        own = np.array(ratios)[:, g]
        z = (own.mean() - law(g + 1)) / (own.std(ddof=1) / math.sqrt(CHAINS))
        print(f"{regime['name']} g={g}: {own.mean():.4f} law {law(g + 1):.4f} z={z:+.2f}")
        assert abs(z) < 4, (g, own.mean(), law(g + 1), z)
