"""Data sets of the Hugging Face hub."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from image_files import picture, png

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.registry import open_source


@pytest.fixture
def hub(monkeypatch):
    """`datasets.load_dataset` answers with what the test puts in."""
    datasets = pytest.importorskip("datasets")

    def serve(columns, features, splits=("train",)):
        dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        monkeypatch.setattr(
            datasets, "load_dataset", lambda name: datasets.DatasetDict(dict.fromkeys(splits, dataset))
        )
        return datasets

    return serve


def test_hub_finds_columns_by_feature(hub):
    from datasets import ClassLabel, Image, Value

    columns = {
        "img": [{"bytes": png(colour=(i, 0, 0)), "path": None} for i in range(4)],
        "label": [0, 1, 1, 0],
        "caption": list("abcd"),
    }
    hub(
        columns,
        {"img": Image(), "label": ClassLabel(names=["ant", "bee"]), "caption": Value("string")},
        splits=("test",),
    )
    source = open_source(Data(source="hub:owner/name"), 0)
    assert (
        source.classes == ["ant", "bee"]
        and source.prompts == list("abcd")
        and source.keys[2] == "owner/name/2"
    )
    assert source.read(3)[0, 0].tolist() == [3, 0, 0]


def test_hub_never_follows_a_path_out_of_its_cache(hub, tmp_path):
    from datasets import Image

    path = picture(tmp_path / "private.png")
    hub({"image": [{"bytes": None, "path": str(path)}]}, {"image": Image()})
    with pytest.raises(DataError, match="has no image bytes"):
        open_source(Data(source="hub:name"), 0)


def test_hub_without_image_column_or_train_split(hub):
    from datasets import Image, Value

    hub({"text": ["x"]}, {"text": Value("string")})
    with pytest.raises(DataError, match=r"no image column \(its columns: text\)"):
        open_source(Data(source="hub:name"), 0)
    hub({"image": [{"bytes": png(), "path": None}]}, {"image": Image()}, splits=("a", "b"))
    with pytest.raises(DataError, match=r"no split 'train' \(its splits: a, b\)"):
        open_source(Data(source="hub:name"), 0)


@pytest.mark.parametrize("name", ["../x", "a/b/c", "a b"])
def test_hub_names(name):
    with pytest.raises(DataError, match="looks like NAME or OWNER/NAME"):
        open_source(Data(source=f"hub:{name}"), 0)


def test_hub_name_of_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataError, match="imagefolder:mnist"):
        open_source(Data(source="hub:mnist"), 0)


def test_hub_offline_says_so():
    pytest.importorskip("datasets")
    code = (
        "from difflab.config import Data\nfrom difflab.data.registry import open_source\nfrom "
        "difflab.core.errors import DataError\n"
        "try: open_source(Data(source='hub:nobody/nothing-here'), 0)\nexcept DataError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert "hub:nobody/nothing-here cannot be loaded" in run.stdout and "imagefolder:PATH" in run.stdout
    assert len(run.stdout.strip().splitlines()) == 1
