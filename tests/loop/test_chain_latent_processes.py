"""Latent families in several real processes: launched by accelerate and killed, in two ranks, and with weights sharded over them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from forks import Server, environment
from safetensors.torch import load_file

from difflab.config import Config
from difflab.runs.run import Run, open_run

pytestmark = tiny.LIBRARIES
FEW = {"count": 4, "steps": 1, "shard_size": 2, "batch_size": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("processes")
    tiny.make("sd15", path / "sd15")
    return path


def written(place: Path, name: str, config: Config) -> Path:
    file = place / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return file


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="module")
def run(place, server) -> Any:
    """(name, config, processes, sharded, stop) -> the run; one process is the server itself, so that forks find all modules loaded."""

    def go(name: str, config: Config, world: int = 0, sharded: bool = False, stop: int = 0) -> Run:
        server.run(written(place, name, config), place / name, world, sharded, stop)
        return open_run(place / name)

    return go


def layers(run: Run, generation: int) -> dict[str, Any]:
    file = next(
        p
        for p in (run.gen(generation) / "model").rglob("*.safetensors")
        if p.parent.name in ("model", "unet", "transformer")
    )
    return load_file(file)


def furthest(a: Run, b: Run, generation: int) -> float:
    one, other = layers(a, generation), layers(b, generation)
    assert one.keys() == other.keys()
    return max(float((t - other[name]).abs().max()) for name, t in one.items())


@pytest.mark.parametrize("rank", [0, 2])
def test_two_processes_train_the_same_weights_and_draw_the_same_samples(rank, place, run):
    config = tiny.config(
        "sd15",
        place / "sd15",
        generations=0,
        model={"lora_rank": rank},
        train={"images_seen": 24, "learning_rate": 1e-3},
    )
    one, two = run(f"one-{rank}", config), run(f"two-{rank}", config, 2)
    assert {t["processes"] for t in one.timings()} == {1} and {t["processes"] for t in two.timings()} == {2}
    print("weights", furthest(one, two, 0))
    assert furthest(one, two, 0) < 1e-5
    np.testing.assert_allclose(one.training(0)["loss"], two.training(0)["loss"], rtol=1e-5)
    a, b = (r.samples(0).gather(np.arange(10)).astype(int) for r in (one, two))
    assert np.abs(a - b).max() <= 1 and a.std() > 10


def test_two_processes_draw_the_same_bits_from_a_base_as_it_is(place, run):
    config = tiny.config(
        "sd15",
        place / "sd15",
        generations=0,
        model={"generation_0": "base"},
        sample={"batch_size": 5},
        probe={"per_condition": 1, "conditions": 7},
    )
    one, two = run("base-one", config), run("base-two", config, 2)
    assert one.samples(0).hash() == two.samples(0).hash()
    probes = [r.probe(0, 7).column("sha256") for r in (one, two)]
    assert probes[0] == probes[1]


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora_rank": 2}, {"train_text_encoder": True}],
    ids=str,
)
def test_sharded_weights_are_trained_to_the_same_and_resumed(changes, place, run):
    name = next(iter(changes), "full")
    train = {"images_seen": 24, "learning_rate": 1e-3, "weight_decay": 0.01, "checkpoint_every": 16}
    config = tiny.config("sd15", place / "sd15", generations=0, model=changes, train=train, sample=FEW)
    one, two = run(f"whole-{name}", config), run(f"sharded-{name}", config, 2, sharded=True)
    print("weights", furthest(one, two, 0))
    assert furthest(one, two, 0) < 1e-5
    if name == "train_text_encoder":
        texts = [tiny.tensors(r.gen(0) / "model", "text_encoder") for r in (one, two)]
        # Adam divides by the root of a squared gradient: where that is next to nothing, rounding moves a weight further (seen: 1.9e-5).
        assert (
            max(float((t - texts[1][n]).abs().max()) for n, t in texts[0].items()) < 2e-4
        )  # they moved by up to 6e-3
    if name == "full":
        cut = run("cut", config, 2, sharded=True, stop=1)
        assert (cut.gen(0) / "checkpoint.safetensors").exists() and not (cut.gen(0) / "model").exists()
        again = run("cut", config, 2, sharded=True)
        assert furthest(again, two, 0) == 0 and again.samples(0).hash() == two.samples(0).hash()
        assert again.training(0) == two.training(0)


def test_killed_and_launched_again_by_accelerate(place, run, server):
    """Two processes, SIGKILL in the middle of a training, and the same command under accelerate's launcher: it ends that one and does the next."""
    train = {"images_seen": 240, "checkpoint_every": 80}
    config = tiny.config("sd15", place / "sd15", model={"lora_rank": 2}, train=train, sample=FEW)
    out, file = place / "launched", written(place, "launched", config)
    checkpoint, deadline = out / "gen-000" / "checkpoint.safetensors", time.monotonic() + 100
    workers = server.start(file, out, 2)
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    assert server.end() == [-signal.SIGKILL] * 2
    assert checkpoint.exists() and not (out / "gen-000" / "model").exists(), (
        place / "launched.0.log"
    ).read_text()[-3000:]
    flags = [
        "--multi_gpu",
        "--num_processes=2",
        "--num_machines=1",
        "--mixed_precision=no",
        "--dynamo_backend=no",
        "--main_process_port=0",
    ]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *flags,
        "-m",
        "difflab",
        "run",
        str(file),
        "--out",
        str(out),
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    undisturbed, launched = run("undisturbed", config, 2), open_run(out)
    assert {t["processes"] for t in launched.timings()} == {2}
    for t in (0, 1):
        assert furthest(launched, undisturbed, t) == 0 and launched.training(t) == undisturbed.training(t)
        assert launched.samples(t).hash() == undisturbed.samples(t).hash()
