"""The record of an audit is read back as it was written; images are looked up by pixels, or by name and size."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import difflab
from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.audit_record import BITS, hash_of_key, identities, read_audit
from difflab.data.registry import open_source
from difflab.data.subset import subset
from tests.helpers.audited import A1111, write

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 12, 9, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, one of which is there twice and declares a generator once; one cannot be read."""
    write(tmp_path / "set", PIXELS[:4], "a")
    write(tmp_path / "set", PIXELS[:1], "b", A1111)
    (tmp_path / "set" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    return tmp_path


def settings(folder: Path, **data: Any) -> Data:
    return Data(
        source=f"imagefolder:{folder / 'set'}", audit=str(folder / "audit"), bad_images="skip", **data
    )


@pytest.mark.parametrize("by_pixels", [True, False])
def test_the_images_of_the_audited_folder_are_all_found(folder: Path, by_pixels: bool) -> None:
    difflab.audit(folder / "set", out=folder / "audit", metadata_only=not by_pixels)
    data = settings(folder, image_size=8, color="L")  # the run sees other pixels than the audit
    record, source = read_audit(data), open_source(data, 0)
    assert (record.images, record.by_pixels, len(record.identities)) == (6, by_pixels, 4 if by_pixels else 5)
    bits, present = record.look_up(identities(record, source, np.arange(5)))
    assert source.keys[4] == "b00000.png" and present == record.readable == 5
    declared = BITS["declared synthetic"]
    # equal images share what was found in one of them; by name they are two
    assert bits.tolist() == [declared if by_pixels else 0, 0, 0, 0, declared]
    part = subset(source, np.array([3, 4]))
    assert record.look_up(identities(record, part, np.arange(2)))[0].tolist() == [0, declared]


def test_another_format_has_the_same_pixels_and_another_size_has_not(folder: Path, tmp_path: Path) -> None:
    difflab.audit(folder / "set", out=folder / "audit")
    other = tmp_path / "other" / "set"
    other.mkdir(parents=True)
    Image.fromarray(PIXELS[1]).save(other / "x.bmp")
    Image.fromarray(PIXELS[2]).resize((18, 24)).save(other / "y.png")
    data = Data(source=f"imagefolder:{other}", audit=str(folder / "audit"), image_size=8)
    found = identities(read_audit(data), open_source(data, 0), np.arange(2))
    assert read_audit(data).look_up(found)[0].tolist() == [0, -1]


def test_a_record_of_no_image(folder: Path) -> None:
    difflab.audit(folder / "set", out=folder / "audit")
    lines = (folder / "audit" / "images.jsonl").read_text().splitlines(keepends=True)
    failed = json.dumps({"key": hash_of_key("x"), "failed": True}) + "\n"
    (folder / "audit" / "images.jsonl").write_text(lines[0] + 6 * failed)
    with pytest.raises(DataError, match="has no image that can be read"):
        read_audit(settings(folder))


def test_hash_of_key() -> None:
    assert hash_of_key("a.png") == hashlib.sha256(b"a.png").hexdigest()[:16]
    assert len(hash_of_key("\udcff.png")) == 16
