"""Real processes on a set of several sizes: two instead of one, and killed in a training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from bucket_runs import SIZES, settings
from forks import Server
from safetensors.torch import load_file
from sized_folders import folder as pictures

from difflab.runs.run import open_run
from difflab.runs.verify import verify


def content(path: Path) -> dict[str, bytes]:
    """The files whose bytes are a function of the config."""
    leave = {"timings.jsonl", "curves.png", "report.html"}
    paths = [
        p
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name not in leave and not p.name.startswith(".lease-")
    ]
    return {str(p.relative_to(path)): p.read_bytes() for p in paths}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, server) -> Path:
    """The config as a file, and the run that nobody disturbed."""
    path = tmp_path_factory.mktemp("buckets")
    config = settings(pictures(path / "set", SIZES, 30))
    (path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    server.run(path / "run.yaml", path / "one")
    return path


def test_stopped_in_its_second_training_it_goes_on_to_the_same_bytes(folder, server):
    server.run(folder / "run.yaml", folder / "stopped", stop=5)
    assert (folder / "stopped" / "gen-001" / "checkpoint.safetensors").exists()
    server.run(folder / "run.yaml", folder / "stopped")
    assert content(folder / "stopped") == content(folder / "one")


def test_a_lost_shard_of_samples_is_drawn_again_with_the_same_bytes(folder, server):
    before = content(folder / "stopped")
    (folder / "stopped" / "gen-002" / "samples" / "00001.parquet").unlink()
    server.run(folder / "run.yaml", folder / "stopped")
    after = content(folder / "stopped")
    assert {name: after[name] for name in before if "samples" in name} == {
        name: data for name, data in before.items() if "samples" in name
    }


def test_two_processes_train_on_the_same_batches_and_draw_the_same_sizes(folder, server):
    """Gradients are summed in another order, so weights agree up to rounding."""
    server.run(folder / "run.yaml", folder / "two", world=2)
    one, two = open_run(folder / "one"), open_run(folder / "two")
    assert {row["processes"] for row in two.timings()} == {2} and list(verify(two)) == []
    weights = [load_file(run.gen(0) / "model/unet/diffusion_pytorch_model.safetensors") for run in (one, two)]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-4
    losses = [np.array(run.training(0)["loss"]) for run in (one, two)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    for t in range(3):
        assert np.array_equal(one.samples(t).bucket, two.samples(t).bucket)
        assert one.samples(t).column("seed") == two.samples(t).column("seed")
    pixels = [run.samples(0).gather(np.arange(30)) for run in (one, two)]
    assert all(np.abs(a.astype(int) - b).max() <= 2 for a, b in zip(*pixels, strict=True))
