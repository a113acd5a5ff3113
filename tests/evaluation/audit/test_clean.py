"""Writing a set without what crosses a threshold."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from audited import A1111, write

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.image_sets import listing_of
from difflab.data.registry import open_source
from difflab.evaluation.audit.audit import audit
from difflab.evaluation.audit.clean import check_layers, reasons_of, write_clean


def test_the_rest_opens_as_a_source_with_its_labels(tmp_path: Path, emoji: list[np.ndarray]) -> None:
    root = tmp_path / "set"
    write(root / "cat", emoji[:6])
    write(root / "dog", emoji[6:10])
    write(root / "dog", emoji[10:13], "made", A1111)
    (root / "cat" / "bad.png").write_bytes(b"\x89PNG")
    before = {path: path.read_bytes() for path in root.rglob("*.png")}
    audit(root, write=tmp_path / "clean")
    source = open_source(Data(source=f"parquet:{tmp_path / 'clean'}"), 0)
    assert len(source) == 10 and source.classes == ["cat", "dog"]
    assert source.labels is not None and source.labels.tolist() == [0] * 6 + [1] * 4
    assert all(np.array_equal(source.read(i), image) for i, image in enumerate(emoji[:10]))
    with open(tmp_path / "clean" / "left_out.csv") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["file_name"]: row["reason"] for row in rows} == {
        "cat/bad.png": "cannot be read",
        **{f"dog/made0000{i}.png": "declared synthetic" for i in range(3)},
    }
    assert {path: path.read_bytes() for path in root.rglob("*.png")} == before  # nothing is changed


def test_arrays_are_encoded_without_loss(tmp_path: Path, emoji: list[np.ndarray]) -> None:
    grey = np.stack(emoji[:4])[..., :1]
    assert write_clean(listing_of(grey, "set", []), {1: "x"}, tmp_path / "clean") == 3
    source = open_source(Data(source=f"parquet:{tmp_path / 'clean'}"), 0)
    assert np.array_equal(np.stack([source.read(i) for i in range(3)]), grey[[0, 2, 3]])


def test_reasons_of_several_layers() -> None:
    masks = {"watermark": np.array([1, 0, 0, 0], bool), "probe": np.array([1, 1, 0, 0], bool)}
    readable = np.array([1, 1, 0, 1], bool)
    assert reasons_of(masks, readable, ["watermark", "probe", "file name"]) == {
        0: "watermark; probe",
        1: "probe",
        2: "cannot be read",
    }
    assert reasons_of(masks, readable, []) == {2: "cannot be read"}


def test_what_is_refused(tmp_path: Path) -> None:
    listing = listing_of(np.zeros((2, 8, 8), np.uint8), "set", [])
    with pytest.raises(DataError, match="would be empty"):
        write_clean(listing, {0: "x", 1: "x"}, tmp_path / "clean")
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="exists already"):
        write_clean(listing, {}, tmp_path / "there")
    with pytest.raises(DataError, match="no layer 'probes'"):
        check_layers(["probes"])
    assert [path.name for path in tmp_path.iterdir()] == ["there"]  # no temporary folder is left
