"""Sides of a comparison: everything people have is taken, and what is odd about it is said."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import folder as pictures_in
from pictures import pictures
from PIL import Image

from difflab import Monitor, compare, diagnose
from difflab.core.errors import DataError
from difflab.data.image_sets import open_sides

FEW = {"extractors": ["pixels"], "metrics": ["fd", "recall"], "resamples": 0}


@pytest.fixture
def folder(tmp_path):
    return pictures_in(tmp_path / "set", 40, 16)


def test_a_folder_equals_its_own_files_however_they_are_turned(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    (tmp_path / "set").mkdir()
    paths = [tmp_path / "set" / f"{i:03d}.jpg" for i in range(40)]
    for path, picture in zip(paths, pictures(40, 16), strict=True):
        picture.save(path, exif=turned)
    by_name = compare(tmp_path / "set", paths, **FEW)
    assert by_name.rows == compare(tmp_path / "set", [Image.open(path) for path in paths], **FEW).rows
    assert by_name.rows == compare([Image.open(path) for path in paths], tmp_path / "set", **FEW).rows


def test_a_dataset_is_taken_by_compare_monitor_and_diagnose(folder):
    datasets = pytest.importorskip("datasets")
    paths = [str(path) for path in sorted(folder.iterdir())]
    dataset = datasets.Dataset.from_dict(
        {"img": paths, "caption": paths},
        features=datasets.Features({"img": datasets.Image(), "caption": datasets.Value("string")}),
    )
    assert compare(folder, dataset, **FEW).rows == compare(folder, folder, **FEW).rows
    assert (
        Monitor(dataset, extractors=["pixels"], metrics=["fd"], resamples=0).update(dataset)[0]["value"]
        is not None
    )
    twice = datasets.concatenate_datasets([dataset, dataset])
    assert diagnose(twice, [dataset], extractors=["pixels"], count=30).findings
    assert open_sides({"real": dataset}, None, 0.0, [])["real"].prompts == paths
    with pytest.raises(DataError, match=r"real has several splits \(train, test\); give one of them"):
        open_sides({"real": datasets.DatasetDict(train=dataset, test=dataset)}, None, 0.0, [])
    with pytest.raises(DataError, match=r"real is a IterableDataset; give a datasets.Dataset"):
        open_sides({"real": dataset.to_iterable_dataset()}, None, 0.0, [])
    with pytest.raises(DataError, match=r"no image column \(its columns: caption\)"):
        open_sides({"real": dataset.remove_columns("img")}, None, 0.0, [])


def test_files_of_other_kinds_and_odd_pictures_are_said(folder):
    (folder / "notes.md").write_text("x")
    pictures(1, 16)[0].resize((48, 16)).save(folder / "wide.png")
    pictures(1, 16)[0].save(folder / "moving.gif", save_all=True, append_images=pictures(2, 16, 1))
    notes = []
    open_sides({"real": folder}, None, 0.0, notes)
    said = "\n".join(notes)
    assert (
        "real: 1 have another aspect ratio and are cropped to their centre (67% of their area is lost)"
        in said
    )
    assert "real: 1 have several frames, of which the first is read (the first: moving.gif, 3 frames)" in said
    assert "real: files that are not images were not opened: 1 .md" in said


def test_parquet_of_several_sizes_is_fitted_as_folders_are(folder, tmp_path):
    pictures(1, 24)[0].save(folder / "large.png")
    paths = sorted(folder.iterdir())
    pq.write_table(pa.table({"image": [path.read_bytes() for path in paths]}), tmp_path / "a.parquet")
    pq.write_table(
        pa.table(
            {"img": [{"bytes": path.read_bytes(), "path": None} for path in paths], "n": list(range(41))}
        ),
        tmp_path / "b.parquet",
    )
    notes = []
    sides = open_sides(
        {"folder": folder, "rows": tmp_path / "a.parquet", "cells": tmp_path / "b.parquet"}, None, 0.0, notes
    )
    for i in range(41):
        assert np.array_equal(sides["folder"].read(i), sides["rows"].read(i)) and np.array_equal(
            sides["rows"].read(i), sides["cells"].read(i)
        )
    assert sum("2 different sizes" in note for note in notes) == 3


@pytest.mark.parametrize("labels", [list(range(40)), [0.5] * 40, [0, "a"] * 20])
def test_labels_that_are_no_classes_do_not_stop_a_comparison(labels, folder):
    (folder / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f"{i:03d}.png", "label": label}) for i, label in enumerate(labels))
    )
    result = compare(folder, folder, **FEW)
    assert (
        any(note.startswith("real: labels are not used") for note in result.notes)
        and result["fd"]["value"] is not None
    )


def test_parquet_beside_images_is_their_metadata(folder):
    pq.write_table(
        pa.table({"file_name": [f"{i:03d}.png" for i in range(40)], "text": ["a"] * 40}),
        folder / "metadata.parquet",
    )
    assert open_sides({"real": folder}, None, 0.0, [])["real"].prompts == ["a"] * 40


def test_every_bad_image_of_a_list_is_counted(folder):
    paths = sorted(folder.iterdir())
    for path in paths[::4]:
        path.write_bytes(path.read_bytes()[:60])
    for given in (folder, paths, [path.read_bytes() for path in paths]):
        with pytest.raises(DataError, match="10 of 40 images are left out, the first: "):
            open_sides({"real": given}, None, 0.1, [])
        source = open_sides({"real": given}, None, 0.3, [])["real"]
        assert len(source) == 30 == source.account.read and source.account.count("skipped") == 10


@pytest.mark.parametrize("name", ["a.txt", "a.zip", "a.png"])
def test_a_file_that_is_no_set(name, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        DataError, match=f"real: {tmp_path / name} must be a folder, or a .parquet, .npz or .npy file"
    ):
        open_sides({"real": tmp_path / name}, None, 0.0, [])
