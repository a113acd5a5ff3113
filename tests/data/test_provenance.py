"""The setting data.provenance: what a source declares, what is refused, and what the user is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.declared import Declared
from difflab.data.provenance import BUNDLED, TRUSTED, note_of, origins
from difflab.data.registry import open_source
from tests.helpers.declaring import SETTINGS, png, source_type


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images: two without metadata, two of a generator, one that a camera took, one of a table."""
    made = tmp_path / "images"
    made.mkdir()
    for name in "abcdef":
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(made / f"{name}.png")
    for name in "cd":
        (made / f"{name}.png").write_bytes(png({"parameters": SETTINGS}))
    (made / "e.png").write_bytes(png(itxt={"XML:com.adobe.xmp": source_type("digitalCapture").decode()}))
    rows = [{"file_name": f"{name}.png"} for name in "abcde"]
    rows.append({"file_name": "f.png", "origin": "synthetic", "depth": 6})
    (made / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return made


def opened(folder: Path, **data: object) -> tuple[list[Declared], list[str]]:
    settings = Data(source=f"imagefolder:{folder}", **data)
    source = open_source(settings, 0)
    return origins(source, settings), source.account.notes


def test_what_files_declare_counts(folder: Path) -> None:
    found, notes = opened(folder)
    assert [(entry.origin, entry.depth, entry.declared_by) for entry in found] == [
        ("unknown", None, "none"),
        ("unknown", None, "none"),
        ("synthetic", 1, "generator"),
        ("synthetic", 1, "generator"),
        ("real", 0, "iptc"),
        ("synthetic", 6, "table"),
    ]
    assert notes == [
        "3 of 6 images (50%) declare that they are synthetic (generator: 2, table: 1; depth 1 to 6) and count "
        "as such"
    ]


def test_trust_reads_nothing(folder: Path) -> None:
    assert opened(folder, provenance="trust") == ([TRUSTED] * 6, [])


def test_require_refuses_with_the_count(folder: Path) -> None:
    message = (
        r"data.provenance=require: 5 of 6 images of imagefolder:.* have no evidence of a real origin \(3 declare "
        r"that they are synthetic, 2 have an unknown origin; the first: a.png: unknown, declared by none\)"
    )
    with pytest.raises(DataError, match=message):
        opened(folder, provenance="require")
    (folder / "metadata.jsonl").write_text('{"file_name": "e.png"}')
    assert opened(folder, provenance="require")[0][0].declared_by == "iptc"


def test_contradictions_are_counted(folder: Path) -> None:
    rows = [{"file_name": f"{name}.png", "origin": "real"} for name in "abcdef"]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, notes = opened(folder, provenance="require")
    assert {entry.origin for entry in found} == {"real"}
    assert notes == ["2 images declare both a real and a synthetic origin, and the first layer counts"]


def test_a_part_of_a_set_keeps_its_declarations(folder: Path) -> None:
    found, _ = opened(folder, limit=4)
    everything, _ = opened(folder)
    assert len(found) == 4 and sum(entry in everything for entry in found) == 4
    assert [entry.declared_by for entry in found] != [entry.declared_by for entry in everything[:5]]


def test_columns_of_a_parquet_file(tmp_path: Path) -> None:
    images = [{"bytes": png({"a": str(i)}), "path": None} for i in range(4)]
    table = {
        "image": images,
        "kind": pa.array(["real", "synthetic", None, "cat"]).dictionary_encode(),
        "generation": [-1, 2, 3, 4],
        "depth": [[1], [2], [3], [4]],  # of another meaning
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    settings = Data(source=f"parquet:{tmp_path / 'a.parquet'}")
    found = origins(open_source(settings, 0), settings)
    assert [(entry.origin, entry.depth) for entry in found] == [
        ("real", 0), ("synthetic", 3), ("unknown", None), ("unknown", None),
    ]  # fmt: skip


def test_bundled_images_are_real() -> None:
    settings = Data(source="digits", provenance="require")
    assert set(origins(open_source(settings, 0), settings)) == {BUNDLED}


def test_a_set_without_synthetic_images_gets_no_sentence() -> None:
    assert note_of([BUNDLED, Declared("unknown", None, "none")]) == ""
