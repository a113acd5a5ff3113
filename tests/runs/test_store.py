from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from difflab.core.errors import StoreError
from difflab.core.ragged import together
from difflab.runs import ledger
from difflab.runs.store import Shards

COUNT, SIZE = 10, 4  # shards of 4, 4 and 2


def pictures(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (COUNT, 6, 6, channels), dtype=np.uint8)


def opened(folder: Path, record: tuple[int, ...] = (6, 6, 3), count: int = COUNT) -> Shards:
    return Shards(folder / "images", folder / "features", folder / "cache", count, SIZE, record)


def stored(folder: Path, pixels: np.ndarray, **columns: list) -> Shards:
    shards = opened(folder, pixels.shape[1:], len(pixels))
    for k in shards.shards:
        own = slice(shards.span(k).start, shards.span(k).stop)
        shards.write(
            k, pixels[own], {"generation": 0, **{name: values[own] for name, values in columns.items()}}
        )
    return shards


def test_spans_cover_every_image_once(tmp_path):
    shards = opened(tmp_path)
    assert [list(shards.span(k)) for k in shards.shards] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(shards) == COUNT
    assert list(opened(tmp_path, count=8).shards) == [0, 1] and list(opened(tmp_path, count=0).shards) == []


def test_complete_only_with_every_shard(tmp_path):
    shards = stored(tmp_path, pictures())
    assert shards.complete()
    shards.path(1).unlink()
    assert not shards.complete() and shards.has(0) and not shards.has(1)


@pytest.mark.parametrize(
    "pixels",
    [pictures(1), pictures(3), np.random.default_rng(0).standard_normal((COUNT, 3, 2))],
    ids=["grey", "colour", "numbers"],
)
@pytest.mark.parametrize("from_cache", [True, False])
def test_gather_across_shards_equals_brute_force(tmp_path, pixels, from_cache):
    shards = stored(tmp_path, pixels)
    if not from_cache:
        shutil.rmtree(shards.cache)
    for indices in ([9, 0, 4, 4, 3, 8], [], [5], list(range(COUNT)), [7, 7, 7]):
        got = shards.gather(np.array(indices, dtype=np.int64))
        assert got.dtype == pixels.dtype and got.shape == (len(indices), *pixels.shape[1:])
        assert (got == pixels[indices]).all()


def test_gathering_what_is_not_there_is_an_error(tmp_path):
    shards = stored(tmp_path, pictures())
    for index in (COUNT, 400, -1):
        with pytest.raises((StoreError, IndexError)):
            shards.gather(np.array([index]))


def test_the_cache_is_rebuilt_from_the_parquet_files(tmp_path):
    shards, pixels = stored(tmp_path, pictures()), pictures()
    shutil.rmtree(shards.cache)
    again = opened(tmp_path)
    assert (again.pixels(2) == pixels[8:]).all()
    assert sorted(p.name for p in again.cache.iterdir()) == ["00002.npy"]
    assert isinstance(again.pixels(2), np.memmap)  # memory does not grow with the set


def test_a_set_of_several_sizes_is_stored_in_order_and_read_by_index(tmp_path):
    sizes = ((6, 4), (4, 6))
    shards = Shards(tmp_path / "i", tmp_path / "f", tmp_path / "c", 5, 3, (6, 4, 3), sizes=sizes)
    rng = np.random.default_rng(0)
    chosen = [0, 1, 1, 0, 0]
    images = [rng.integers(0, 256, (*sizes[b], 3), dtype=np.uint8) for b in chosen]
    for shard in shards.shards:
        span = shards.span(shard)
        shards.write(shard, together(images[span.start : span.stop]), {"kind": "real"})
    assert shards.bucket.tolist() == chosen and list(shards.verify()) == []
    for rows in ([4, 0, 2], [1, 2], [3]):
        for image, row in zip(shards.gather(np.array(rows)), rows, strict=True):
            assert np.array_equal(image, images[row])
    assert shards.gather(np.array([1, 2])).shape == (2, 4, 6, 3)  # of one size: an ordinary array
    shards.derive("sum", 0, lambda x: x.float().flatten(1).sum(1, keepdim=True))
    shards.derive("sum", 1, lambda x: x.float().flatten(1).sum(1, keepdim=True))
    assert shards.features("sum").flatten().tolist() == [float(image.sum()) for image in images]
    with pytest.raises(StoreError, match=r"got 2 images of the shapes \[\(6, 6, 3\)\], expected 2 of"):
        shards.write(1, np.zeros((2, 6, 6, 3), np.uint8), {})
    with pytest.raises(StoreError, match=r"got 1 images of the shapes \[\(4, 6, 3\)\], expected 2 of"):
        shards.write(1, together(images[1:2]), {})


def test_writing_the_wrong_shape_is_refused(tmp_path):
    shards = opened(tmp_path)
    with pytest.raises(
        StoreError, match=r"00002.parquet: got records of shape \(4, 6, 6, 3\), expected \(2, 6, 6, 3\)"
    ):
        shards.write(2, pictures()[:4], {})
    assert not shards.has(2)


def test_labels_and_columns_run_over_all_shards(tmp_path):
    shards = stored(tmp_path, pictures(), label=list(range(10, 20)), key=[f"k{i}" for i in range(COUNT)])
    assert shards.labels().tolist() == list(range(10, 20)) and shards.labels().dtype == np.int64
    assert shards.column("key") == [f"k{i}" for i in range(COUNT)]
    assert shards.column("index") == list(range(COUNT))
    assert stored(tmp_path / "other", pictures()).labels() is None


def test_derive_computes_each_shard_once(tmp_path):
    shards, pixels, calls = stored(tmp_path, pictures()), pictures(), []

    def mean(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        assert x.dtype == torch.uint8
        return x.float().mean((1, 2))

    for k in shards.shards:
        shards.derive("mean", k, mean, pixels[4:8] if k == 1 else None)
    for k in shards.shards:
        shards.derive("mean", k, mean)
    assert calls == [4, 4, 2]
    assert torch.equal(shards.features("mean"), torch.from_numpy(pixels).float().mean((1, 2)))
    shards.feature_path("mean", 1).unlink()
    with pytest.raises(StoreError, match="mean-00001"):
        shards.features("mean")


def test_the_hash_is_of_content_and_order(tmp_path):
    pixels = pictures()
    first = stored(tmp_path / "a", pixels).hash()
    assert stored(tmp_path / "b", pixels, label=[1] * COUNT).hash() == first
    assert stored(tmp_path / "c", pixels[::-1].copy()).hash() != first
    changed = pixels.copy()
    changed[9, 5, 5, 2] ^= 1
    assert stored(tmp_path / "d", changed).hash() != first


# ------------------------------------------------------------------------------------------------ verify
def faults(folder: Path) -> list[str]:
    return list(opened(folder).verify())


def test_a_whole_set_has_no_fault(tmp_path):
    stored(tmp_path, pictures())
    assert faults(tmp_path) == []


def test_a_missing_shard_is_found(tmp_path):
    stored(tmp_path, pictures()).path(1).unlink()
    (fault,) = faults(tmp_path)
    assert "00001.parquet is missing" in fault


@pytest.mark.parametrize("kept", [0, 3, 100, -9, -1])
def test_a_truncated_shard_is_found(tmp_path, kept):
    path = stored(tmp_path, pictures()).path(2)
    path.write_bytes(path.read_bytes()[:kept])
    (fault,) = faults(tmp_path)
    assert "00002.parquet is damaged" in fault
    with pytest.raises(StoreError, match="damaged"):
        opened(tmp_path).table(2)


def test_swapped_shards_are_found(tmp_path):
    shards = stored(tmp_path, pictures())
    a, b = shards.path(0).read_bytes(), shards.path(1).read_bytes()
    shards.path(0).write_bytes(b)
    shards.path(1).write_bytes(a)
    assert [f.split(": ")[1] for f in faults(tmp_path)] == [
        "contains other images than 0..3",
        "contains other images than 4..7",
    ]


@pytest.mark.parametrize("trick", ["other image", "not an image"])
def test_an_image_exchanged_inside_a_well_formed_file_is_found(tmp_path, trick):
    shards = stored(tmp_path, pictures())
    rows = shards.table(1)
    blobs = rows["image"].to_pylist()
    blobs[2] = {
        "bytes": ledger.encode_png(pictures()[0]) if trick == "other image" else b"junk",
        "path": None,
    }
    column = rows.schema.get_field_index("image")
    field = rows.schema.field("image")
    pq.write_table(rows.set_column(column, field, pa.array(blobs, field.type)), shards.path(1))
    (fault,) = faults(tmp_path)
    assert (
        "image 6 differs from its content hash" if trick == "other image" else "no longer decodes"
    ) in fault


def test_a_flipped_byte_is_found_unless_it_changes_nothing(tmp_path):
    shards = stored(tmp_path, pictures(), label=list(range(COUNT)))
    path = shards.path(0)
    whole, rows = path.read_bytes(), shards.table(0)
    group = pq.ParquetFile(path).metadata.row_group(0)
    pages = 4 + sum(group.column(c).total_compressed_size for c in range(group.num_columns))
    found = {True: 0, False: 0}
    for at in [*range(4, pages, pages // 60), *range(pages, len(whole), (len(whole) - pages) // 40)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        if faults(tmp_path):
            found[at < pages] += 1
        else:
            read = shards.table(0)
            assert read.equals(rows, check_metadata=True), f"byte {at} changes the rows unnoticed"
    assert found[True] >= 35  # page headers hold statistics, too
    assert found[False] >= 5  # the footer holds much that no reader looks at


def test_columns_of_another_kind_are_found(tmp_path):
    shards = stored(tmp_path, pictures())
    pq.write_table(
        shards.table(1).rename_columns(["seee" if n == "seed" else n for n in shards.table(1).schema.names]),
        shards.path(1),
    )
    (fault,) = faults(tmp_path)
    assert "00001.parquet: its columns are not those of the ledger" in fault
