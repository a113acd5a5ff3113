"""Stage 3 on real digits: seeds, quotas, provenance, features in the same pass, resuming."""

from __future__ import annotations

import io
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from accelerate import Accelerator
from PIL import Image

from difflab.config import Config, parse
from difflab.core.hashing import file_hash
from difflab.core.progress import Reporter
from difflab.core.seeds import image_seeds, probe_seeds
from difflab.loop.chain import run_chain
from difflab.loop.conditions import probe_count
from difflab.loop.run_extractors import extractors_of
from difflab.loop.sample import draw_probe, draw_samples
from difflab.loop.work import Work
from difflab.models import family_of
from difflab.runs.run import Run

pytestmark = tiny.LIBRARIES
run_chain = partial(run_chain, plots=False)  # curves take seconds

BASE: dict[str, Any] = {
    "generations": 1,
    "data": {"source": "digits", "train_size": 80},
    "model": {"family": "pixel-mlp", "width": 32, "depth": 1},
    "train": {"images_seen": 1280, "batch_size": 64, "learning_rate": 3e-3},
    "sample": {"count": 50, "steps": 4, "shard_size": 20, "batch_size": 10, "guidance_scale": 1.5},
    "probe": {"per_condition": 1},
    "measure": {"extractors": ["pixels", "fitted"], "metrics": ["trace_ratio"], "resamples": 0},
}


def digits(**changes: Any) -> Config:
    return parse({**BASE, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("sample") / "run")


@pytest.fixture
def copy(run, tmp_path) -> Run:
    shutil.copytree(run.path, tmp_path / "run")
    return Run(tmp_path / "run", run.config)


def model_of(run: Run, generation: int) -> Any:
    return family_of(run.config.model).load(run.config.model, run.shape, run.gen(generation) / "model")


def redraw(run: Run, generation: int = 1) -> None:
    accelerator = Accelerator()
    work = Work(run, accelerator, Reporter(quiet=True), extractors_of(run, accelerator))
    model, settings = model_of(run, generation), run.config.sample
    draw_samples(work, generation, model, settings, lambda n: None)
    draw_probe(work, generation, model, settings)


# ------------------------------------------------------------------------------------------------- seeds
def test_every_image_is_drawn_from_its_own_seed(run):
    seeds = run.samples(1).column("seed")
    assert seeds == image_seeds(0, 0, 1, range(50)) and len(set(seeds)) == 50
    assert not set(seeds) & set(run.samples(0).column("seed"))
    labels, how, model = run.samples(1).labels(), run.config.sample, model_of(run, 1)
    pixels = run.samples(1).gather(np.arange(50))
    assert (
        model.sample(labels[20:30], seeds[20:30], how) == pixels[20:30]
    ).all()  # the batch that they were drawn in
    # In another batch the sums of a matrix product round otherwise, which moves a pixel by a grey level at most.
    alone = np.concatenate([model.sample(labels[i : i + 1], seeds[i : i + 1], how) for i in range(20, 30)])
    assert np.abs(alone.astype(int) - pixels[20:30]).max() <= 1


def test_sets_of_two_generations_differ_even_from_equal_weights(copy):
    shutil.rmtree(copy.gen(1) / "model")
    shutil.copytree(copy.gen(0) / "model", copy.gen(1) / "model")
    shutil.rmtree(copy.gen(1) / "samples")
    shutil.rmtree(copy.gen(1) / "probe")
    redraw(copy)
    assert not set(copy.samples(0).column("sha256")) & set(copy.samples(1).column("sha256"))
    probes = [copy.probe(t, probe_count(copy)) for t in (0, 1)]
    assert probes[0].hash() == probes[1].hash()  # the probe asks the same seeds of every generation
    assert probes[0].column("seed") == probe_seeds(0, 10) and probes[0].column("label") == list(range(10))


def test_the_probe_differs_between_generations_only_by_the_weights(run):
    probes = [run.probe(t, probe_count(run)) for t in (0, 1)]
    assert probes[0].column("seed") == probes[1].column("seed") and probes[0].hash() != probes[1].hash()
    assert not set(probes[0].column("seed")) & {s for t in (0, 1) for s in run.samples(t).column("seed")}


# ------------------------------------------------------------------------------------------------ quotas
# -------------------------------------------------------------------------------------------- provenance
def test_every_row_says_where_it_came_from(run):
    for t in (0, 1):
        home, record = run.gen(t), json.loads((run.gen(t) / "model" / "hash.json").read_text())
        table = pq.read_table(home / "samples")
        assert table["index"].to_pylist() == list(range(50))
        for name, value in {
            "generation": t,
            "lab": 0,
            "kind": "synthetic",
            "split": "sample",
            "model_hash": record["model"],
            "parents_hash": file_hash(home / "train_set.parquet"),
        }.items():
            assert set(table[name].to_pylist()) == {value}, name
        settings = json.loads(table["settings"][0].as_py())
        assert settings == {
            "precision": "no",
            "scheduler": "DDIMScheduler",
            "steps": 4,
            "guidance_scale": 1.5,
            "batch_size": 10,
        }
        assert [
            c == str(x) for c, x in zip(table["class"].to_pylist(), table["label"].to_pylist(), strict=True)
        ] == [True] * 50
        assert table["key"].null_count == 50  # no sample has a name of the source
    assert len({run.samples(t).column("model_hash")[0] for t in (0, 1)}) == 2
    real = pq.read_table(run.path / "real" / "images")
    assert (
        set(real["kind"].to_pylist()) == {"real"}
        and real["seed"].null_count == len(real)
        and real["model_hash"].null_count == len(real)
    )


def test_sampled_json_tells_count_hash_and_probe(run):
    record = json.loads((run.gen(1) / "sampled.json").read_text())
    expected = {"count": 50, "hash": run.samples(1).hash(), "probe": 10, "depth": 2, "mean_depth": 2.0}
    assert record == expected


# ------------------------------------------------------------------------------- features, resuming, probe
def test_features_taken_in_the_pass_are_those_of_the_pngs_read_back(run):
    for extractor in extractors_of(run, Accelerator()):
        for shard in run.samples(1).shards:
            blobs = run.samples(1).table(shard)["image"].to_pylist()
            images = np.stack([np.asarray(Image.open(io.BytesIO(b["bytes"])))[..., None] for b in blobs])
            ours = run.samples(1).features(extractor.key)[
                run.samples(1).span(shard).start : run.samples(1).span(shard).stop
            ]
            assert torch.equal(extractor(torch.from_numpy(images)), ours), extractor.name


def test_a_resumed_stage_draws_only_what_is_missing(copy):
    before, home = copy.samples(1).hash(), copy.gen(1)
    (home / "sampled.json").unlink()
    copy.samples(1).path(1).unlink()
    feature = copy.samples(1).feature_path(extractors_of(copy, Accelerator())[1].key, 2)
    content = feature.read_bytes()
    feature.unlink()
    model, drawn = model_of(copy, 1), []

    class Counted:
        def sample(self, labels: Any, seeds: list[int], how: Any) -> Any:
            drawn.append(seeds)
            return model.sample(labels, seeds, how)

    told: list[int] = []
    kept = {p: p.stat().st_mtime_ns for p in home.rglob("*.parquet")}
    accelerator = Accelerator()
    work = Work(copy, accelerator, Reporter(quiet=True), extractors_of(copy, accelerator))
    draw_samples(work, 1, Counted(), copy.config.sample, told.append)
    draw_probe(work, 1, Counted(), copy.config.sample)
    seeds = image_seeds(0, 0, 1, range(50))
    assert drawn == [seeds[20:30], seeds[30:40]] and sum(told) == 50
    assert copy.samples(1).hash() == before and feature.read_bytes() == content
    assert all(p.stat().st_mtime_ns == when for p, when in kept.items())


def test_a_run_without_probe_leaves_no_probe(tmp_path: Path):
    config = digits(
        generations=0,
        model={"family": "memoriser"},
        sample={"count": 50},
        probe={"per_condition": 0},
        measure={"metrics": []},
    )
    run_chain(config, tmp_path / "run")
    assert not (tmp_path / "run" / "gen-000" / "probe").exists()


# ---------------------------------------------------------------------------------------- a trained base
@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("rate", [0.0, 3e-3])
def test_a_run_says_if_training_changed_no_sample(rank, rate, tmp_path):
    """With a learning rate of 0 the weights stay those of the base."""
    base = tiny.make("sd15", tmp_path / "base")
    train = {"learning_rate": rate or 1e-30, "images_seen": 32, "checkpoint_every": 0}
    config = tiny.config("sd15", base, model={"lora_rank": rank}, train=train)
    said: list[str] = []

    class Listener(Reporter):
        def say(self, text: str) -> None:
            said.append(text)

    run_chain(config, tmp_path / "run", Listener(quiet=True))
    unchanged = [line for line in said if "training has not changed the samples" in line]
    assert [line.split(":")[0] for line in unchanged] == ([] if rate else ["generation 0", "generation 1"])


def test_a_base_that_is_generation_0_is_not_compared_with_itself(tmp_path):
    config = tiny.config(
        "sd15", tiny.make("sd15", tmp_path / "base"), generations=0, model={"generation_0": "base"}
    )
    said: list[str] = []

    class Listener(Reporter):
        def say(self, text: str) -> None:
            said.append(text)

    run_chain(config, tmp_path / "run", Listener(quiet=True))
    assert not [line for line in said if "has not changed" in line]
