"""Real processes: killed anywhere and started again, and two of them instead of one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from forks import Server
from safetensors.torch import load_file

from difflab.runs.run import Run, open_run

TINY: dict[str, Any] = {
    "generations": 2,
    "data": {"source": "digits", "train_size": 80},
    "model": {"family": "pixel-mlp", "width": 32, "depth": 1},
    "train": {
        "images_seen": 3200,
        "batch_size": 32,
        "learning_rate": 3e-3,
        "checkpoint_every": 160,
        "ema_decay": 0.9,
    },
    "regime": {"name": "accumulate_subsample"},
    "sample": {"count": 60, "steps": 5, "shard_size": 10, "batch_size": 10},
    "probe": {"per_condition": 1},
    "measure": {
        "extractors": ["pixels"],
        "metrics": ["fd", "recall", "class_accuracy"],
        "resamples": 40,
        "held_out_loss": 24,
    },
}
NOT_COMPARED = {
    "timings.jsonl",
    "curves.png",
    "report.html",
}  # the curves carry the name of their folder, the report times


def content(path: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name not in NOT_COMPARED and not p.name.startswith(".lease-")
    }


def hashes(run: Run) -> list[str]:
    return [run.samples(t).hash() for t in range(run.config.generations + 1)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, server) -> Path:
    """The config as a file, and the run that nobody disturbed."""
    path = tmp_path_factory.mktemp("processes")
    (path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    server.run(path / "tiny.yaml", path / "one")
    return path


def test_killed_at_ten_moments_it_goes_on_to_the_same_bytes(folder, server):
    """SIGKILL at random (seeded) moments of a run's working life: so long after its last result, with the restart right after."""
    rng, out = random.Random(0), folder / "killed"

    def progress() -> int:
        """Results and checkpoints so far, counted by their writes."""
        return sum(
            p.stat().st_mtime_ns % 2**62
            for p in out.rglob("*")
            if p.suffix in {".safetensors", ".parquet", ".json", ".jsonl"}
        )

    kills, seen, codes = 0, [], []
    while True:
        [pid] = server.start(folder / "tiny.yaml", out)
        if kills < 10:
            before, wait = progress_or_zero(progress), rng.randint(3, 12)
            steps, deadline = 0, time.monotonic() + 30
            while steps < wait and time.monotonic() < deadline:
                now = progress_or_zero(progress)
                steps, before = steps + (now != before), now
                if (
                    not Path(f"/proc/{pid}").exists()
                    or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
                ):
                    break
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.03))
            os.kill(pid, signal.SIGKILL)
            kills += 1
            seen.append(sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()))
        codes += server.end()
        if codes[-1] == 0 and kills == 10:
            break
        assert codes[-1] in (0, -signal.SIGKILL), codes
        assert len(codes) < 20
    print(
        codes,
        [
            f"{max((n[:7] for n in s if n.startswith('gen-')), default='-')}{'*' * ('checkpoint.safetensors' in ''.join(s))}"
            for s in seen
        ],
    )
    assert codes.count(-signal.SIGKILL) >= 8  # a kill that came after the end would test nothing
    assert any("checkpoint.safetensors" in "".join(s) for s in seen)  # some hit the middle of a training
    assert any("gen-001" in "".join(s) for s in seen)  # and not all of them the first generation
    assert content(out) == content(folder / "one")
    assert not [p for p in out.rglob("*") if p.name.endswith((".tmp", ".partial"))]


def progress_or_zero(progress: Any) -> int:
    try:
        return progress()
    except FileNotFoundError:  # a temporary file that was renamed meanwhile
        return 0


@pytest.fixture(scope="module")
def two(folder, server) -> Path:
    server.run(folder / "tiny.yaml", folder / "two", world=2)
    return folder / "two"


def test_two_processes_train_the_same_model_up_to_rounding(folder, two):
    """Gradients are summed in another order, so weights agree not in bits but up to float32 rounding.

    Measured after 200 steps: weights within 2.4e-7, losses within 1.1e-7 (relative), all samples and measures equal. The
    tolerances leave a factor of 40 to 100 for other processors.
    """
    one, other = open_run(folder / "one"), open_run(two)
    assert {x["processes"] for x in other.timings()} == {2} and {x["processes"] for x in one.timings()} == {1}
    a, b = (load_file(r.gen(0) / "model/unet/diffusion_pytorch_model.safetensors") for r in (one, other))
    worst = max(float((a[name] - b[name]).abs().max()) for name in a)
    losses = [np.array(r.training(0)["loss"]) for r in (one, other)]
    pixels = [r.samples(0).gather(np.arange(60)).astype(int) for r in (one, other)]
    print(
        "weights",
        worst,
        "loss",
        np.abs(losses[0] / losses[1] - 1)[:, 1].max(),
        "pixels",
        np.abs(pixels[0] - pixels[1]).max(),
    )
    assert worst < 1e-5
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert np.abs(pixels[0] - pixels[1]).max() <= 1
    trained = [
        {r["metric"]: r for r in run.rows() if r["generation"] == 0 and r["extractor"] == "training"}
        for run in (one, other)
    ]
    assert len(trained[0]) == 11 and trained[0].keys() == trained[1].keys()
    for name, row in trained[0].items():
        assert row["recipe"] == trained[1][name]["recipe"] and row["n"] == trained[1][name]["n"]
        assert row["value"] == pytest.approx(trained[1][name]["value"], rel=1e-4, abs=1e-5), name
    for x, y in zip(one.rows(), other.rows(), strict=True):
        if x["generation"] == 0 and x["metric"] in ("fd", "class_accuracy"):
            print(x["metric"], x["extractor"], x["value"], y["value"], x["floor"], y["floor"])
            assert x["recipe"] == y["recipe"] and x["floor"] == pytest.approx(y["floor"], rel=1e-9)
            assert x["value"] == pytest.approx(y["value"], rel=1e-2, abs=1e-3)


def test_two_processes_settle_on_one_precision(folder, server):
    """Before the processes are prepared for training, the decision of the main process reaches the other."""
    asks = {**TINY, "generations": 0, "train": {**TINY["train"], "precision": "auto", "images_seen": 320}}
    (folder / "auto.yaml").write_text(yaml.safe_dump(asks))
    server.run(folder / "auto.yaml", folder / "auto", world=2)
    run = open_run(folder / "auto")
    assert run.config.train.precision in ("no", "bf16") and run.generations == [0]
    assert {x["processes"] for x in run.timings()} == {2}
    said = [(folder / f"auto.{rank}.log").read_text().count("train.precision=auto: ") for rank in (0, 1)]
    assert said == [1, 0]


def test_two_processes_draw_the_same_samples_from_the_same_model(folder, two, server):
    """A run of one process goes on from what two processes trained: every stage behind the training gives the same bytes."""
    out = folder / "handed-over"
    shutil.copytree(two, out)
    for t in range(3):
        for name in ("samples", "features", "probe"):
            shutil.rmtree(out / f"gen-{t:03d}" / name)
        for name in ("sampled.json", "selected.parquet", "metrics.jsonl", "grid.png"):
            (out / f"gen-{t:03d}" / name).unlink()
    server.run(folder / "tiny.yaml", out)
    assert hashes(open_run(out)) == hashes(open_run(two))
    assert content(out) == content(two)  # features, intervals and metrics included
