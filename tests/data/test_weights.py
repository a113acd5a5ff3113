"""Weights of images from a table: what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difflab.config import Data, parse, recipe_of
from difflab.core.errors import ConfigError, DataError
from difflab.data import record
from difflab.data.registry import open_source
from difflab.data.weights import as_weights
from tests.helpers.audited import write

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "set", PIXELS)
    names = [f"image{i:05d}.png" for i in range(4)]
    rows = [{"file_name": name, "w": i / 2} for i, name in enumerate(names)]
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "set"


def settings(folder: Path, **data: Any) -> Data:
    return Data(source=f"imagefolder:{folder}", **data)


def test_a_column_of_the_table_is_read_and_follows_the_images(folder: Path) -> None:
    source = open_source(settings(folder, weight="w", limit=4), 0)
    assert source.weights is not None and source.weights.tolist() == [0, 0.5, 1, 1.5]
    part = open_source(settings(folder, weight="w", limit=4, bad_images="skip"), 0)
    assert part.weights is not None and len(part.weights) == 4
    assert open_source(settings(folder), 0).weights is None
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text(
        "file_name,w\n" + "".join(f"image{i:05d}.png,{i}\n" for i in range(4))
    )
    assert open_source(settings(folder, weight="w"), 0).weights.tolist() == [0, 1, 2, 3]


def test_a_changed_weight_is_a_changed_set(folder: Path) -> None:
    before, without = (record.record(settings(folder, **data)) for data in ({"weight": "w"}, {}))
    table = folder / "metadata.jsonl"
    table.write_text(table.read_text().replace('"w": 0.5', '"w": 0.25'))
    changes = record.changes(before, record.record(settings(folder, weight="w")))
    assert changes == ["1 with another caption, label or weight (image00001.png)"]
    assert record.record(settings(folder)) == without


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, None], "row 1: 'w', which data.weight names, must be a number of at least 0, not 'None'"),
        ([1, -0.5], "row 1: .* not '-0.5'"),
        ([float("nan"), 1], "row 0: .* not 'nan'"),
        ([1, "inf"], "row 1: .* not 'inf'"),
        ([True, 1], "row 0: .* not 'True'"),
        (["<b>heavy</b>", 1], "row 0: .* not '<b>heavy</b>'"),
        ([1, 10**400], "row 1: .* not '1000"),
        ([0, 0.0], "all weights in 'w', which data.weight names, are 0"),
    ],
)
def test_values_that_are_no_weights(values: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_weights(values, "w", lambda row: f"row {row}")


def test_settings_that_do_not_fit(folder: Path) -> None:
    with pytest.raises(DataError, match="has no column 'weight'"):
        open_source(settings(folder, weight="weight"), 0)
    with pytest.raises(ConfigError, match="weight is for your own images"):
        parse({"data": {"weight": "w"}, "model": {"family": "memoriser"}})
    assert "data.weight" not in recipe_of(parse({"model": {"family": "memoriser"}}))
