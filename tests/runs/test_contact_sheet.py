"""The signed contact sheet of an exported set: what it states, and what verify finds."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from chains import COPIES, config, ran
from commands import difflab
from PIL import Image

from difflab.core.errors import DataError
from difflab.core.files import read_json
from difflab.runs.contact_sheet import (
    contact_sheet,
    hash_of_images,
    inputs_of_set,
    sheet_of,
    statement_of_set,
)
from difflab.runs.export import export
from difflab.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = config(base=COPIES, regime={"name": "accumulate"}, generations=2, sample={"count": 90})
    return ran(made, tmp_path_factory.mktemp("sheet") / "run")


@pytest.fixture(scope="module")
def signed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    folder = tmp_path_factory.mktemp("signed") / "out"
    key = folder.parent / "key"
    done = difflab("export", run.path, "--generation", 2, "--to", folder, "--c2pa", key)
    assert done.returncode == 0, done.stderr
    assert "out.sheet.png is signed for the set as a whole" in done.stdout.replace("\n", "")
    return folder


def test_it_shows_64_samples_from_the_whole_set(run: Run) -> None:
    shown = np.asarray(Image.open(io.BytesIO(contact_sheet(run, 2))))
    for index, row, column in ((0, 0, 0), (89, 7, 7)):
        large = np.kron(run.samples(2).gather(np.array([index]))[0, ..., 0], np.ones((6, 6), np.uint8))
        top, left = 38 + 51 * row, 16 + 51 * column  # 8 px enlarged to 48 with hard edges, and a gap of 3
        assert (shown[top : top + 48, left : left + 48, 0] == large).all()


def test_it_states_the_hash_of_the_set_and_what_the_model_was_trained_on(run: Run, signed: Path) -> None:
    from difflab.data.manifest import Reader

    manifest = Reader(signed.parent / "key" / "root.pem").read(sheet_of(signed))
    sampled, model = read_json(run.gen(2) / "sampled.json"), read_json(run.gen(2) / "model" / "hash.json")
    assert manifest.state == "trusted" and manifest.sources == ("trainedalgorithmicmedia",)
    stated = manifest.generation
    assert (stated["set"], stated["images"], stated["generation"]) == (sampled["hash"], 90, 2)
    assert (stated["depth"], stated["model"], stated["training_set"]) == (
        3,
        model["model"],
        model["train_set"],
    )
    titles = [entry["title"] for entry in manifest.inputs]
    assert titles == ["training set of generation 2", "samples of generation 0", "samples of generation 1"]
    assert [entry["hash"] for entry in manifest.inputs] == [
        model["train_set"],
        *(read_json(run.gen(t) / "sampled.json")["hash"] for t in (0, 1)),
    ]
    assert manifest.inputs[0]["description"] == (
        "220 images, 81.8% of them count as synthetic, 0 of unknown origin, mean depth 1.10"
    )
    assert manifest.inputs[1]["description"] == "90 of its images are in the training set"


def test_verify_says_whether_the_set_is_complete(signed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(signed, copy)
    shutil.copy(sheet_of(signed), sheet_of(copy))
    anchors = ("--anchors", signed.parent / "key" / "root.pem")
    done = difflab("verify", copy, *anchors)
    assert done.returncode == 0
    assert (
        "contact sheet out.sheet.png: trusted: these are the images of the set that was signed" in done.stdout
    )
    assert "trained on training set of generation 2" in done.stdout
    shutil.copy(copy / "000001.png", copy / "000002.png")  # a signed image of the set in the place of another
    done = difflab("verify", copy, *anchors)
    assert done.returncode == 1 and "90 trusted" in done.stdout
    assert "images are missing, changed or added since the set was signed" in done.stdout
    (copy / "000002.png").unlink()
    row = json.loads(difflab("verify", copy, *anchors, "--json").stdout.splitlines()[-1])
    assert (row["state"], row["complete"]) == ("trusted", False)
    shutil.rmtree(copy)
    shutil.copytree(signed, copy)
    data = bytearray(sheet_of(copy).read_bytes())
    data[len(data) // 2] ^= 1
    sheet_of(copy).write_bytes(data)
    done = difflab("verify", copy, *anchors)
    assert done.returncode == 1 and "contact sheet out.sheet.png: invalid" in done.stdout
    assert "trained on" not in done.stdout  # a signature that does not hold says nothing
    shutil.copy(copy / "000001.png", sheet_of(copy))  # a manifest without a set
    done = difflab("verify", copy, *anchors)
    assert done.returncode == 0 and "it says nothing about these images" in done.stdout


def test_a_sheet_is_never_overwritten(run: Run, signed: Path, tmp_path: Path) -> None:
    sheet_of(tmp_path / "set").write_bytes(b"mine")
    done = difflab(
        "export", run.path, "--generation", 0, "--to", tmp_path / "set", "--c2pa", signed.parent / "key"
    )
    assert done.returncode == 2 and "set.sheet.png exists" in done.stderr
    assert sheet_of(tmp_path / "set").read_bytes() == b"mine" and not (tmp_path / "set").exists()


def test_the_hash_of_files_is_that_of_the_samples(run: Run, tmp_path: Path) -> None:
    export(run, 1, tmp_path / "out")
    files = list((tmp_path / "out").iterdir())
    assert not sheet_of(tmp_path / "out").exists()  # without a signature there is no sheet
    assert hash_of_images(files) == statement_of_set(run, 1)["set"] == run.samples(1).hash()
    assert hash_of_images(files[::-1]) == run.samples(1).hash()
    (tmp_path / "out" / "000000.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="000000"):
        hash_of_images(files)


def test_a_lab_names_the_samples_of_other_labs(tmp_path: Path) -> None:
    eco = ran(config(base=COPIES, generations=1, ecosystem={"labs": 2}), tmp_path / "run")
    inputs = inputs_of_set(eco.labs[1], 1, "abc")
    assert [entry["title"] for entry in inputs[1:]] == [f"samples of generation 0 of lab {i}" for i in (0, 1)]
    assert [entry["hash"] for entry in inputs[1:]] == [lab.samples(0).hash() for lab in eco.labs]
    (eco.labs[1].gen(1) / "train_set.parquet").unlink()
    assert inputs_of_set(eco.labs[1], 1, "abc") == [{"title": "training set of generation 1", "hash": "abc"}]
