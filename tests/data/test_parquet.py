"""Parquet files of images."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from image_files import png, write_parquet

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data import parquet
from difflab.data.registry import open_source


def rows_of(n, **extra):
    return [
        {
            "image": {"bytes": png(colour=(i, 0, 0)), "path": None},
            **{name: values[i] for name, values in extra.items()},
        }
        for i in range(n)
    ]


def open_rows(path, **options):
    return open_source(Data(source=f"parquet:{path}", **options), 0)


def test_parquet_folder(tmp_path):
    write_parquet(tmp_path / "a.parquet", rows_of(3, label=["x", "y", "x"], text=["p", "q", "r"]))
    write_parquet(tmp_path / "sub" / "b.parquet", rows_of(2, label=["y", "x"], text=["s", "t"]))
    (tmp_path / "dataset_info.json").write_text("{}")
    source = open_rows(tmp_path)
    assert source.keys == ["a.parquet/0", "a.parquet/1", "a.parquet/2", "sub/b.parquet/0", "sub/b.parquet/1"]
    assert source.classes == ["x", "y"] and source.labels.tolist() == [0, 1, 0, 1, 0]
    assert source.prompts == ["p", "q", "r", "s", "t"]
    assert [source.read(i)[0, 0, 0] for i in range(5)] == [0, 1, 2, 0, 1]


def test_parquet_of_plain_bytes_without_labels(tmp_path):
    write_parquet(tmp_path / "a.parquet", [{"image": png()}, {"image": png()}])
    source = open_rows(tmp_path / "a.parquet")
    assert source.labels is None and source.prompts is None and source.keys[1] == "a.parquet/1"


def test_parquet_reads_one_row_group_at_a_time(tmp_path, monkeypatch):
    write_parquet(tmp_path / "a.parquet", rows_of(20), row_group_size=4)
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    source = open_rows(tmp_path)
    order = [19, 0, 7, 8, 3]
    assert [int(source.read(i)[0, 0, 0]) for i in order] == order
    assert len(source.read.items.cache) == 1
    assert int(pickle.loads(pickle.dumps(source.read))(9)[0, 0, 0]) == 9


def test_parquet_written_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "never seen"])}
    )
    columns = {"image": [{"bytes": png(), "path": None}] * 4, "label": [1, 0, 1, 0]}
    table = datasets.Dataset.from_dict(columns, features=features).data.table
    pq.write_table(table.replace_schema_metadata(features.arrow_schema.metadata), tmp_path / "a.parquet")
    source = open_rows(tmp_path)
    assert source.classes == ["ant", "bee"] and source.labels.tolist() == [1, 0, 1, 0]


def test_the_bundled_emoji_are_such_a_folder():
    from difflab.data.emoji import FOLDER

    direct = open_source(Data(source="emoji", styles=["twemoji"]), 0)
    source = open_rows(FOLDER / "twemoji-0.parquet", label="category")
    assert source.classes == direct.classes and source.prompts == direct.prompts
    assert np.array_equal(source.read(100), direct.read(100))


@pytest.mark.parametrize(
    ("rows", "options", "what"),
    [
        ([{"picture": b"x"}], {}, r"no column 'image' \(its columns: picture\)"),
        ([{"image": "x"}], {}, "'image' has the type string"),
        ([{"image": {"path": "/etc/passwd"}}], {}, "'image' has the type struct"),
        (
            [{"image": {"bytes": None, "path": "/etc/passwd"}}, {"image": {"bytes": b"x", "path": ""}}],
            {},
            "a.parquet/0 has no image bytes",
        ),
        ([{"image": b"not an image"}], {}, "image a.parquet/0: cannot be decoded"),
        ([{"image": png(), "label": 1}, {"image": png(), "label": None}], {}, "1 of 2 images have no label"),
        (
            [{"image": png(), "text": None}, {"image": png(), "text": "x"}],
            {},
            "image a.parquet/0 has no 'text'",
        ),
        ([{"image": png()}], {"label": "style"}, "no column 'style'"),
        (
            [{"image": png(), "label": "a"}, {"image": b"bad", "label": "b"}],
            {"bad_images": "skip"},
            "no image of class 'b'",
        ),
    ],
)
def test_bad_parquet(tmp_path, rows, options, what):
    write_parquet(tmp_path / "a.parquet", rows)
    with pytest.raises(DataError, match=what):
        open_rows(tmp_path, **options)


def test_parquet_skips_bad_rows(tmp_path):
    write_parquet(
        tmp_path / "a.parquet", [{"image": b"bad", "label": 0}, {"image": png(colour=(5, 5, 5)), "label": 0}]
    )
    source = open_rows(tmp_path, bad_images="skip")
    assert source.keys == ["a.parquet/1"] and source.skipped[0][0] == "a.parquet/0"
    assert source.read(0)[0, 0, 0] == 5


def test_rows_of_a_damaged_part_of_a_file_are_left_out_and_counted(tmp_path):
    write_parquet(
        tmp_path / "a.parquet", rows_of(8), row_group_size=2, compression="none", write_page_checksum=True
    )
    raw = bytearray((tmp_path / "a.parquet").read_bytes())
    third = raw.index(png(colour=(4, 0, 0)))
    raw[third + 60] ^= 1
    (tmp_path / "a.parquet").write_bytes(raw)
    source = open_rows(tmp_path, bad_images="skip")
    assert [int(key.rpartition("/")[2]) for key in source.keys] == [0, 1, 2, 3, 6, 7]
    assert source.account.count("skipped") == 2 and "CRC" in source.skipped[0][1]
    with pytest.raises(DataError, match=r"a.parquet cannot be read as a parquet file"):
        open_rows(tmp_path)


def test_damaged_different_or_no_parquet(tmp_path):
    with pytest.raises(DataError, match=r"contains no .parquet file"):
        open_rows(tmp_path)
    write_parquet(tmp_path / "a.parquet", rows_of(2, label=[0, 1]))
    write_parquet(tmp_path / "b.parquet", rows_of(2))
    with pytest.raises(DataError, match="other label or text columns"):
        open_rows(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"a.parquet cannot be read as a parquet file"):
        open_rows(tmp_path)


def test_parquet_link_that_leads_out(tmp_path):
    write_parquet(tmp_path / "far" / "a.parquet", rows_of(2))
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "a.parquet").symlink_to(tmp_path / "far" / "a.parquet")
    with pytest.raises(DataError, match="leads out of"):
        open_rows(tmp_path / "near")
