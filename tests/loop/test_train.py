"""Stage 2: where a generation starts from, how rows are weighted, and how a model is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator

from difflab.config import merged, parse
from difflab.core.errors import ConfigError, StoreError
from difflab.core.hashing import file_hash
from difflab.core.progress import Reporter
from difflab.loop import train
from difflab.loop.chain import run_chain
from difflab.loop.work import Work
from difflab.policies import Policy
from difflab.runs.run import Run

MLP: dict[str, Any] = {
    "generations": 1,
    "data": {"source": "digits", "limit": 60},
    "model": {"family": "pixel-mlp", "width": 8, "depth": 1},
    "train": {"images_seen": 64, "batch_size": 32, "checkpoint_every": 32, "ema_decay": 0.0},
    "sample": {"count": 20, "steps": 2},
    "measure": {"metrics": [], "extractors": [], "held_out_loss": 0},
    "probe": {"per_condition": 0},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_chain(parse(MLP), tmp_path_factory.mktemp("train") / "run", plots=False)


def weights(model: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.net.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def start(run: Run, values: dict[str, Any], generation: int = 1) -> list[torch.Tensor]:
    changed = Run(run.path, parse(merged(MLP, values)))
    return weights(train.starting_model(changed, generation))


def stored(run: Run, generation: int) -> list[torch.Tensor]:
    family = type(train.starting_model(run, 0))
    return weights(family.load(run.config.model, run.shape, run.gen(generation) / "model"))


def test_a_generation_starts_from_the_weights_that_start_from_names(run: Run) -> None:
    previous = start(run, {"train.start_from": "previous"}, 2)
    assert same(previous, stored(run, 1)) and not same(previous, stored(run, 0))
    assert same(start(run, {"train.start_from": "base"}, 2), stored(run, 0))
    scratch = start(run, {"train.start_from": "scratch"}, 2)
    assert not same(scratch, stored(run, 0)) and not same(scratch, stored(run, 1))
    assert same(scratch, start(run, {"train.start_from": "scratch"}, 2)), (
        "new weights depend on the seed alone"
    )
    assert not same(scratch, start(run, {"train.start_from": "scratch"}, 1))


def test_the_record_of_a_model_holds_the_hash_of_every_file(run: Run) -> None:
    folder = run.gen(1) / "model"
    record = json.loads((folder / "hash.json").read_text())
    files = {
        str(p.relative_to(folder)): file_hash(p)
        for p in folder.rglob("*")
        if p.name != "hash.json" and p.is_file()
    }
    assert record["files"] == files and record["train_set"] == file_hash(run.gen(1) / "train_set.parquet")
    assert not (run.gen(1) / "checkpoint.safetensors").exists()


class Weighing(Policy):
    policy: str = "weighing"
    values: Any = ()

    def row_weights(self, at: Any, rows: pa.Table) -> np.ndarray:
        return np.array(self.values)


def weighed(run: Run, *values: list[float]) -> np.ndarray | None:
    config = run.config.model_copy(update={"policies": [Weighing(values=v) for v in values]})
    work = Work(Run(run.path, config), Accelerator(), Reporter(quiet=True))
    return train.row_weights(work, 1, pa.table({"index": list(range(len(values[0]) if values else 3))}))


def test_weights_of_policies_are_multiplied_and_have_mean_1(run: Run) -> None:
    assert weighed(run) is None
    both = weighed(run, [1.0, 2.0, 3.0], [3.0, 1.0, 1.0])
    assert both is not None and both.mean() == pytest.approx(1)
    assert both / both[1] == pytest.approx([1.5, 1.0, 1.5])


@pytest.mark.parametrize("values", [[1.0, -1.0], [float("nan"), 1.0], [0.0, 0.0], [float("inf"), 1.0]])
def test_impossible_weights_are_refused(run: Run, values: list[float]) -> None:
    with pytest.raises(ConfigError, match="not finite, negative or all 0"):
        weighed(run, values)


def test_a_model_that_cannot_be_saved_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from difflab.models.pixel_mlp import PixelMLP

    def refuse(self: Any, folder: Path) -> None:
        raise RuntimeError("tensors share memory")

    monkeypatch.setattr(PixelMLP, "save", refuse)
    with pytest.raises(StoreError, match="cannot be saved, so it is not trained: tensors share memory"):
        run_chain(parse(MLP), tmp_path / "run", plots=False)
    assert not (tmp_path / "run" / "gen-000" / "training.json").exists()
    assert not list((tmp_path / "run" / "gen-000").glob(".*rehearsal*"))


def test_the_flops_of_a_forward_pass_are_counted_once_in_a_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[Any] = []
    count = train.forward_flops

    def watched(model: Any) -> float:
        counted.append(model)
        return count(model)

    monkeypatch.setattr(train, "forward_flops", watched)
    run_chain(parse(MLP), tmp_path / "run", plots=False)
    assert len(counted) == 1
