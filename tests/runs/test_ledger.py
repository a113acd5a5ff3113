from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from difflab.core.hashing import content_hash
from difflab.runs import ledger
from difflab.runs.store import Shards


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 3), (5, 9, 3), (1, 1, 1), (1, 1, 3), (64, 64, 3)])
def test_png_is_lossless(shape):
    pixels = noise(*shape)
    payload = ledger.encode_png(pixels)
    assert payload.startswith(b"\x89PNG")
    read = ledger.decode_png(payload)
    assert read.dtype == np.uint8 and read.shape == shape and (read == pixels).all()


def test_the_content_hash_does_not_depend_on_the_encoder_but_on_shape_and_type():
    pixels = noise(6, 6, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=9)
    assert buffer.getvalue() != ledger.encode_png(pixels)
    assert content_hash(ledger.decode_png(buffer.getvalue())) == content_hash(pixels)
    assert content_hash(pixels[:, ::-1][:, ::-1]) == content_hash(pixels)  # not contiguous
    others = [pixels.reshape(3, 12, 3), pixels.astype(np.int16), pixels ^ np.uint8(1)]
    assert len({content_hash(p) for p in [pixels, *others]}) == 4


def test_an_image_of_one_colour_is_flagged():
    grey, colour = np.full((4, 4, 1), 7, np.uint8), np.broadcast_to(np.array([1, 2, 3], np.uint8), (4, 4, 3))
    assert (
        ledger.flag_of(grey)
        == ledger.flag_of(colour)
        == ledger.flag_of(np.zeros((4, 4, 3), np.uint8))
        == "constant"
    )
    spot = grey.copy()
    spot[3, 3, 0] += 1
    assert ledger.flag_of(spot) is None
    tinted = colour.copy()
    tinted[0, 0, 2] += 1
    assert ledger.flag_of(tinted) is None


def test_rows_are_complete_and_typed():
    pixels = noise(3, 4, 4, 1)
    pixels[1] = 0
    rows = ledger.table(
        {
            "index": [0, 1, 2],
            "generation": 2,
            "kind": "synthetic",
            "label": [0, None, 2],
            "class": ["a", None, "b"],
        },
        pixels,
        images=True,
    )
    assert rows.schema.equals(ledger.schema(True), check_metadata=True)
    assert rows["generation"].to_pylist() == [2, 2, 2]
    assert rows["label"].to_pylist() == [0, None, 2] and rows["class"].to_pylist() == ["a", None, "b"]
    assert rows["flag"].to_pylist() == [None, "constant", None]
    assert rows["sha256"].to_pylist() == [content_hash(p) for p in pixels]
    assert rows["prompt"].null_count == rows["seed"].null_count == 3


def test_numbers_are_kept_exactly_and_never_flagged():
    values = np.random.default_rng(0).standard_normal((3, 2, 4))
    values[1] = 0
    rows = ledger.table({"index": [0, 1, 2]}, values, images=False)
    assert (np.array(rows["values"].to_pylist()).reshape(3, 2, 4) == values).all()
    assert rows["flag"].null_count == 3 and "image" not in rows.schema.names


def test_a_column_of_another_length_is_refused():
    with pytest.raises((pa.ArrowInvalid, ValueError)):
        ledger.table({"index": [0, 1]}, noise(3, 4, 4, 1), images=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_hugging_face_datasets_reads_the_shards_offline(tmp_path, monkeypatch, channels):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    pixels = noise(5, 8, 8, channels)
    shards = Shards(tmp_path / "s", tmp_path / "f", tmp_path / "c", 5, 3, (8, 8, channels))
    for k in shards.shards:
        own = slice(shards.span(k).start, shards.span(k).stop)
        # The first shard has labels and flags throughout, the second none: null columns must not change type between shards.
        some = {"label": list(range(5))[own], "class": list("abcab")[own]} if k == 0 else {}
        shards.write(
            k,
            pixels[own],
            {"generation": 1, "kind": "synthetic", "seed": [2**62 + i for i in shards.span(k)], **some},
        )
    read = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "s" / "*.parquet"),
        cache_dir=str(tmp_path / "cache"),
        split="train",
    )
    assert len(read) == 5
    assert isinstance(read.features["image"], datasets.Image)
    assert (
        read.features["label"].dtype == "int64"
        and read.features["class"].dtype == read.features["kind"].dtype == "string"
    )
    for i, row in enumerate(read):
        assert (np.asarray(row["image"]).reshape(8, 8, channels) == pixels[i]).all()
        assert row["index"] == i and row["kind"] == "synthetic" and row["seed"] == 2**62 + i
        assert row["flag"] is None and row["prompt"] is None
    assert read["label"][:] == [0, 1, 2, None, None] and read["class"][:] == ["a", "b", "c", None, None]


def test_dictionary_and_null_columns_survive_parquet(tmp_path):
    rows = ledger.table(
        {"index": [0, 1], "kind": ["real", "synthetic"], "split": None, "settings": None},
        noise(2, 4, 4, 3),
        images=True,
    )
    pq.write_table(rows, tmp_path / "a.parquet")
    read = pq.read_table(tmp_path / "a.parquet")
    assert read["kind"].to_pylist() == ["real", "synthetic"]
    assert read["split"].null_count == read["settings"].null_count == 2
    assert read.schema.metadata[b"huggingface"] == ledger.schema(True).metadata[b"huggingface"]
