"""Samples of one run come into another one as real images: they are counted, limited, and one deeper again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import difflab
from PIL import Image

from difflab.core.files import read_json
from difflab.data.declared import declared
from difflab.runs.origins import composition, real_origins, sample_depth
from difflab.runs.run import open_run

SMALL: dict[str, Any] = {
    "generations": 2,
    "data": {"source": "digits", "train_size": 40, "limit": 120},
    "model": {"family": "memoriser"},
    "sample": {"count": 40},
    "probe": {"per_condition": 0},
    "measure": {"metrics": []},
}


def process(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "difflab", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def written(path: Path, source: Path, **sections: Any) -> Path:
    made = {**SMALL, "data": {"source": f"imagefolder:{source}", "held_out": 0.5}, **sections}
    path.write_text(yaml.safe_dump(made))
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples of generation 2 of a run, whose depth is 3."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "first.yaml").write_text(yaml.safe_dump(SMALL))
    done = process("run", folder / "first.yaml", "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    done = process("export", folder / "run", "--generation", 2, "--to", folder / "out")
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_an_export_declares_itself_in_two_layers(exported: Path) -> None:
    rows = [json.loads(line) for line in (exported / "metadata.jsonl").read_text().splitlines()]
    assert {(row["origin"], row["depth"], row["kind"], row["generation"]) for row in rows} == {
        ("synthetic", 3, "synthetic", 2)
    }
    hashes = ("sha256", "model_hash", "parents_hash", "set_hash")
    assert all(len(rows[0][name]) >= 12 for name in hashes)
    assert {row["recipe"] for row in rows} == {open_run(exported.parent / "run").recipe}
    sampled = read_json(exported.parent / "run" / "gen-002" / "sampled.json")
    assert rows[0]["set_hash"] == sampled["hash"]
    found = declared(exported / "000000.png")
    assert (found.origin, found.depth, found.declared_by) == ("synthetic", 3, "difflab")
    with Image.open(exported / "000000.png") as image:
        assert json.loads(image.info["difflab"])["sha256"] == rows[0]["sha256"]


@pytest.mark.parametrize("layer", ["table", "difflab"])
def test_the_guard_refuses_imported_samples_with_their_count(
    exported: Path, tmp_path: Path, layer: str
) -> None:
    source = tmp_path / "images"
    shutil.copytree(exported, source)
    if layer == "difflab":
        (source / "metadata.jsonl").unlink()
    guard = [{"policy": "guard", "max_synthetic_fraction": 0.5}]
    path = written(tmp_path / "second.yaml", source, policies=guard, regime={"name": "accumulate"})
    done = process("run", path, "--out", tmp_path / "run")
    assert done.returncode != 0
    assert "1 of training set 0 (20 of 20 images) are synthetic; allowed: at most 0.5" in done.stderr
    assert not list((tmp_path / "run").glob("gen-*"))


def test_the_guard_lets_them_pass_if_they_are_trusted(exported: Path, tmp_path: Path) -> None:
    guard = [{"policy": "guard", "max_synthetic_fraction": 0.5}]
    regime = {"name": "fixed_real", "real_fraction": 0.5}
    data = {"source": f"imagefolder:{exported}", "provenance": "trust"}
    path = written(tmp_path / "second.yaml", exported, policies=guard, regime=regime, data=data)
    done = difflab("run", path, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "declare that they are synthetic" not in done.stdout + done.stderr
    assert set(real_origins(open_run(tmp_path / "run"))["declared_by"].to_pylist()) == {"trust"}


def test_the_depth_goes_on_from_imported_samples(exported: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "second.yaml", exported)
    done = difflab("run", path, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    told = "40 of 40 images (100%) declare that they are synthetic (table: 40; depth 3) and count as such"
    assert told in " ".join((done.stdout + done.stderr).split())
    run = open_run(tmp_path / "run")
    assert [sample_depth(run, t)[0] for t in range(3)] == [4, 5, 6]
    assert composition(run, 0).depths == {3: 20} and composition(run, 0).synthetic_share == 1
    assert set(run.samples(0).column("depth")) == {4}
    status = difflab("status", tmp_path / "run", "--json")
    rows = [json.loads(line) for line in status.stdout.splitlines()]
    assert [row["training_set"]["depths"] for row in rows] == [{"3": 20}, {"4": 40}, {"5": 40}]
    shown = difflab("status", tmp_path / "run").stdout
    assert "100.0%" in shown and "3: 20" in shown


def test_require_refuses_them(exported: Path, tmp_path: Path) -> None:
    data = {"source": f"imagefolder:{exported}", "provenance": "require"}
    done = difflab("run", written(tmp_path / "second.yaml", exported, data=data), "--out", tmp_path / "run")
    assert done.returncode != 0
    assert "40 of 40 images" in done.stderr and "40 declare that they are synthetic" in done.stderr


def test_draws_of_real_images_take_no_imported_samples(exported: Path, tmp_path: Path) -> None:
    """Half of the source are samples. Training set 0 has both; the real part of set 1 only images of depth 0."""
    source = tmp_path / "mixed"
    shutil.copytree(exported, source)
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()]
    for row in rows[::2]:
        for key in ("kind", "generation", "origin", "depth"):
            row.pop(key)
    for row in rows[::2]:
        with Image.open(source / row["file_name"]) as image:
            pixels = image.copy()
        pixels.info.clear()
        pixels.point(lambda value: 255 - value).save(source / row["file_name"])  # an image without the chunk
    (source / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    regime = {"name": "fixed_real", "real_fraction": 0.25}
    path = written(tmp_path / "second.yaml", source, regime=regime)
    done = difflab("run", path, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    run = open_run(tmp_path / "run")
    first, second = composition(run, 0), composition(run, 1)
    assert set(first.origins) == {"unknown", "synthetic"} and first.depths[0] == first.origins["unknown"]
    assert second.depths == {0: 5, 4: 15}
    assert second.origins == {"unknown": 5, "synthetic": 15}
