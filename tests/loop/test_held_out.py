"""The held-out loss of a run is that of the saved model, whatever the processes; it can be off."""

import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from accelerate import Accelerator

from difflab.config import Config, parse
from difflab.core.errors import ConfigError
from difflab.loop import held_out
from difflab.loop.chain import run_chain
from difflab.loop.held_out import positions
from difflab.loop.precision import accelerator_of
from difflab.metrics.held_out_loss import errors, rare
from difflab.models.pixel_mlp import PixelMLP
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


def test_the_rows_are_the_errors_of_the_saved_model(run):
    held, trained = positions(run)
    split = np.array(run.real.column("split"))
    assert (
        (split[held] == "held_out").all()
        and (split[trained] == "train").all()
        and len(held) == len(trained) == 50
    )
    model = PixelMLP.load(run.config.model, run.shape, run.gen(1) / "model")
    model.net.eval()
    labels = run.real.labels()
    by_hand = [
        errors(model, run.real.gather(at), labels[at], range(50), (0,)).mean(1) for at in (held, trained)
    ]
    rows = training(run, 1)
    assert rows["held_out_loss"]["value"] == pytest.approx(by_hand[0].mean(), rel=1e-5)
    assert rows["loss_gap"]["value"] == pytest.approx((by_hand[0] - by_hand[1]).mean(), rel=1e-3, abs=1e-6)
    known = labels[:80]  # training set 0
    chosen = np.isin(labels[held], rare(known))
    assert rows["held_out_loss_rare"]["value"] == pytest.approx(by_hand[0][chosen].mean(), rel=1e-5)


def test_the_gap_rises_when_the_model_memorises(tmp_path):
    few = {
        "generations": 0,
        "data": {"source": "digits", "train_size": 24},
        "sample": {"count": 20, "steps": 1},
    }
    wide = {"family": "pixel-mlp", "width": 128, "depth": 2}
    gaps = []
    for seen in (640, 32_000):
        changed = digits(
            **few, model=wide, train={"images_seen": seen, "batch_size": 32, "learning_rate": 2e-3}
        )
        gaps.append(training(run_chain(changed, tmp_path / str(seen)), 0)["loss_gap"])
    assert gaps[0]["n"] == 24  # as many as there are in the training set
    assert gaps[1]["ci_low"] > 0 and gaps[1]["value"] > 3 * abs(gaps[0]["value"])


def test_it_can_be_off_and_changes_nothing_else(run, tmp_path):
    off = run_chain(digits(measure={"metrics": [], "held_out_loss": 0}), tmp_path / "run")
    assert not list(off.path.rglob("held_out_loss.json"))
    assert not set(training(off, 1)) & set(LOSSES)
    assert all(off.samples(t).hash() == run.samples(t).hash() for t in (0, 1))
    with pytest.raises(ConfigError, match="held_out_loss"):
        digits(measure={"held_out_loss": -1})


def test_more_images_than_there_are_held_out(tmp_path):
    data = {"source": "digits", "train_size": 30, "limit": 90, "held_out": 0.5}
    run = run_chain(
        digits(generations=0, data=data, sample={"count": 20, "steps": 1}, measure={"metrics": []}),
        tmp_path / "run",
    )
    rows = training(run, 0)
    assert rows["held_out_loss"]["n"] == run.about["n_held_out"] == 45 and rows["loss_gap"]["n"] == 30


def test_taken_again_the_file_is_the_same(run, tmp_path):
    """Killed between the loss and the model's last file, a training is repeated."""
    model = PixelMLP.load(run.config.model, run.shape, run.gen(1) / "model")
    held_out.take(run, model, tmp_path, Accelerator(), lambda wanted: None)
    assert (tmp_path / "held_out_loss.json").read_bytes() == (run.gen(1) / "held_out_loss.json").read_bytes()


def test_batches_on_two_cores_give_the_same_losses_in_the_precision_of_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autocast is a state of each thread."""
    seen: list[tuple[int, bool]] = []

    def watch(*given: Any) -> Any:
        seen.append((threading.get_ident(), torch.is_autocast_enabled("cpu")))
        return errors(*given)

    monkeypatch.setattr(held_out, "errors", watch)
    model = PixelMLP.load(run.config.model, run.shape, run.gen(1) / "model")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for name, precision in (("float32", "no"), ("bf16", "bf16")):
            (tmp_path / name).mkdir()
            held_out.take(run, model, tmp_path / name, accelerator_of(precision), lambda wanted: None)
            assert {autocast for _, autocast in seen} == {precision == "bf16"}
            assert len(seen) > 1 and threading.get_ident() not in {thread for thread, _ in seen}
            seen.clear()
    finally:
        torch.set_num_threads(threads)
    name = "held_out_loss.json"
    stored = json.loads((run.gen(1) / name).read_text())
    again, coarse = (json.loads((tmp_path / kind / name).read_text()) for kind in ("float32", "bf16"))
    losses = [record["classes"]["0"]["value"] for record in (stored, again, coarse)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] != pytest.approx(losses[2], rel=1e-5)
