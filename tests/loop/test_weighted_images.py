"""Weights that an audit writes reach the loss: an image of weight 0 leaves no trace in the trained model."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audited import A1111, write
from chains import ran
from commands import difflab
from PIL import Image

from difflab.config import parse
from difflab.core.files import read_json, read_tensors
from difflab.loop.train import image_weights

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
NETWORK = {"family": "pixel-mlp", "width": 8, "depth": 1, "conditional": False}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 images without metadata, 4 of a generator, 2 with the name of one of its files."""
    root = tmp_path_factory.mktemp("weighted")
    write(root / "set", PIXELS[:18])
    write(root / "set", PIXELS[18:22], "made", A1111)
    for i in (1, 2):
        Image.fromarray(PIXELS[21 + i]).save(root / "set" / f"ComfyUI_{i:05d}_.png")
    return root


def weighted(images: Path, out: Path, *weights: str) -> Path:
    done = difflab("audit", images / "set", "--write", out, "--weight", *weights)
    assert done.returncode == 0, done.stderr
    assert f"data.source=parquet:{out} data.weight=weight" in done.stdout.replace("\n", "")
    return out


def run(source: Path, out: Path, family: str = "memoriser", **train: Any) -> Any:
    made: dict[str, Any] = {
        "generations": 0,
        "data": {"source": f"parquet:{source}", "weight": "weight", "held_out": 0.25},
        "model": NETWORK if family == "pixel-mlp" else {"family": family},
        "train": {"images_seen": 64, "batch_size": 16, **train},
        "sample": {"count": 60, "steps": 1, "batch_size": 60, "shard_size": 60},
        "probe": {"per_condition": 0},
        "measure": {"extractors": [], "metrics": [], "held_out_loss": 0},
    }
    return ran(parse(made), out)


def test_the_written_set_has_every_image_with_its_weight_and_reason(images: Path, tmp_path: Path) -> None:
    clean = weighted(images, tmp_path / "clean", "declared synthetic=0.25", "file name=0")
    table = pq.read_table(clean / "images-00000.parquet").to_pydict()
    assert len(table["weight"]) == 24 and sorted(set(table["weight"])) == [0, 0.25, 1]
    reasons = dict(zip(table["weight"], table["weight_reason"], strict=True))
    assert reasons == {0: "file name: 0", 0.25: "declared synthetic: 0.25", 1: ""}
    with open(clean / "weights.csv") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 6 and rows[0] == {
        "file_name": "ComfyUI_00001_.png",
        "weight": "0.0",
        "reason": "file name: 0",
    }
    assert (clean / "left_out.csv").read_text().splitlines() == ["file_name,reason"]
    made = run(clean, tmp_path / "run")
    assert "6 of 24 images have a weight below the largest one" in " ".join(made.came_in)
    shares = read_tensors(made.gen(0) / "model" / "memoriser.safetensors")["shares"].numpy()
    of_rows = np.array(made.real.column("weight")[: len(shares)])
    np.testing.assert_allclose(shares, of_rows / of_rows.sum())
    assert {0, 0.25} < set(of_rows.tolist()) and list(made.real.verify()) == []
    rows_of_both = pa.table({"generation": [-1, 0, -1], "index": [3, 3, 0]})
    assert image_weights(made, rows_of_both).tolist() == [of_rows[3], 1, of_rows[0]]


def copied(clean: Path, out: Path, weights: list[float] | None = None, seed: int | None = None) -> Path:
    """A copy of a written set with other weights; with `seed` the images of a generator show something else."""
    table = pq.read_table(clean / "images-00000.parquet")
    cells, reasons = table["image"].to_pylist(), table["weight_reason"].to_pylist()
    out.mkdir()
    for i in np.flatnonzero([seed is not None and reason != "" for reason in reasons]):
        other = np.random.default_rng([seed or 0, i]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(other).save(out / "other.png")
        cells[i]["bytes"] = (out / "other.png").read_bytes()
        (out / "other.png").unlink()
    columns = {"image": pa.array(cells, table.schema.field("image").type), "weight": table["weight"]}
    if weights is not None:
        columns["weight"] = pa.array(weights)
    pq.write_table(pa.table(columns), out / "images.parquet")
    return out


def net(run: Any) -> dict[str, Any]:
    return read_tensors(run.gen(0) / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def test_an_image_of_weight_0_leaves_no_trace_in_the_network(images: Path, tmp_path: Path) -> None:
    """Its pixels can be any, as if its gradient were left out; with the weight 0.5 they matter."""
    none = weighted(images, tmp_path / "none", "declared synthetic=0")
    half = weighted(images, tmp_path / "half", "declared synthetic=0.5")
    for clean, same in ((none, True), (half, False)):
        other = copied(clean, tmp_path / f"{clean.name}-other", seed=1)
        a, b = (net(run(source, tmp_path / f"{source.name}-run", "pixel-mlp")) for source in (clean, other))
        assert all((a[key] == b[key]).all() for key in a) == same


def test_the_loss_is_the_weighted_mean(images: Path, tmp_path: Path) -> None:
    """One step over the whole set: the mean loss is that of both parts, each weighted alone, by their sizes."""
    clean = weighted(images, tmp_path / "clean", "declared synthetic=0.5")
    part = np.arange(24) % 3 == 0
    losses, count = {}, {}
    for name, weights in (("all", np.ones(24)), ("part", part * 2.0), ("rest", 1.0 - part)):
        source = copied(clean, tmp_path / name, weights.tolist())
        made = run(source, tmp_path / f"{name}-run", "pixel-mlp", images_seen=18, batch_size=18)
        losses[name] = read_json(made.gen(0) / "training.json")["means"]["train_loss"]
        count[name] = int(np.count_nonzero(made.real.column("weight")[:18]))
    mixed = (count["part"] * losses["part"] + count["rest"] * losses["rest"]) / 18
    assert count["part"] + count["rest"] == 18 and losses["all"] == pytest.approx(mixed, rel=1e-5)
    assert abs(losses["part"] - losses["rest"]) > 1e-4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weight", "probe=0.2"], "--weight goes with --write"),
        (["--write", "NEW", "--weight", "probe"], "is not LAYER=W with a weight from 0 to 1"),
        (["--write", "NEW", "--weight", "probe=2"], "is not LAYER=W with a weight from 0 to 1"),
        (["--write", "NEW", "--weight", "size=0.2"], "there is no layer 'size'"),
        (["--write", "NEW", "--weight", "probe=0", "--leave-out", "probe"], "'probe' is in leave out too"),
    ],
)
def test_wrong_weights(images: Path, tmp_path: Path, words: list[str], message: str) -> None:
    place = {"NEW": tmp_path / "new"}
    done = difflab("audit", images / "set", *(place.get(word, word) for word in words))
    assert done.returncode == 2 and message in done.stderr
