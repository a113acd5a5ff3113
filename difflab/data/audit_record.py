"""The record of an audit as `data.audit` reads it: what was found in which image of a source.

`difflab audit DATASET --out FOLDER` writes two files. images.jsonl has one line per image with hashes, the
size and what was found; audit.json has the counts, the share with its interval, and what is found only by
looking at the whole set. An image of a source is looked up by the hash of its pixels, so it may have another
name now. The record of an audit of headers only has no such hashes: there name and size must be the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from difflab.config import Data
from difflab.config.data import audit_content, audit_files
from difflab.core.errors import DataError
from difflab.core.hashing import content_hash
from difflab.core.size import Size
from difflab.core.text import plain
from difflab.data.decode import Item, in_colour, look
from difflab.data.source import Source

VERSION = 2
"""Of the format of both files."""
MAX_PIXELS = Data().max_pixels
"""Largest number of pixels of an image that an audit decodes."""
HASH = 16
"""Hex digits of the hashes in a record."""
AGAIN = "run the same difflab audit command again, which goes on with it"
BITS = {
    "signed": 1,
    "declared synthetic": 2,
    "known synthetic": 4,
    "watermark": 8,
    "declared real": 16,
    "known real": 32,
    "probe": 64,
    "file name": 128,
    "hidden text": 256,
}
"""What can be found in an image; an image can have several."""


class _Interval(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    estimate: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class _Share(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    declared: float = Field(ge=0, le=1)
    estimate: _Interval | None


class _PerImage(BaseModel):
    """Positions of images in the record."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    known_synthetic: list[int]
    known_real: list[int]
    probe_threshold: float | None


class _Summary(BaseModel):
    """The keys of audit.json that are read."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    images: int = Field(ge=1)
    failed: int = Field(ge=0)
    share: _Share
    per_image: _PerImage


class _Line(BaseModel):
    """The keys of a line of images.jsonl that are read."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    key: str = Field(pattern=r"^[0-9a-f]{16}$")
    content: str = Field("", pattern=r"^([0-9a-f]{16})?$")
    failed: bool = False
    size: list[int] = Field([0, 0], min_length=2, max_length=2)
    found: dict[str, str] = {}
    score: float | None = None


@dataclass(frozen=True)
class AuditRecord:
    """The record of an audit.

    Attributes:
        path: the folder or file that was asked for.
        images, readable: images in the record, and those that could be read.
        by_pixels: images are looked up by their pixels; False = by name and size.
        identities: what images are looked up by, uint64 [m], ascending, without repetition.
        counts, bits: of each identity: the number of its images, and what was found in them (`BITS`).
        share: of synthetic images in the whole record: declared, and estimate with low and high or None.
    """

    path: str
    images: int
    readable: int
    by_pixels: bool
    identities: np.ndarray
    counts: np.ndarray
    bits: np.ndarray
    share: dict[str, Any]

    def look_up(self, identities: Sequence[str]) -> tuple[np.ndarray, int]:
        """What was found in each image, `BITS` as int64 [n] with -1 = the image is not in the record; and the
        number of images of the record that are among them.
        """
        wanted = np.array([int(identity, 16) for identity in identities], np.uint64)
        place = np.minimum(np.searchsorted(self.identities, wanted), len(self.identities) - 1)
        there = self.identities[place] == wanted
        found = np.where(there, self.bits[place], -1)
        return found, int(self.counts[np.unique(place[there])].sum())


def hash_of_key(key: str) -> str:
    """The first 16 hex digits of the SHA-256 of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:HASH]


def identities(record: AuditRecord, source: Source, positions: np.ndarray) -> list[str]:
    """What each image of `source` at `positions` is looked up by. Raises DataError for a damaged image."""
    assert source.original is not None
    original = source.original

    def identity(position: int) -> str:
        key, item = original(position)
        where = f"image {plain(key)}"
        if not record.by_pixels:
            header = look(item, where, MAX_PIXELS)
            return _of_name(hash_of_key(key), (header.height, header.width))
        return content_hash(in_colour(_pixels(item, where)))[:HASH]

    # as in data/content.py: filters of warnings are not safe in threads unless they are set around all
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")
        return list(pool.map(identity, positions.tolist()))


def _pixels(item: Item, where: str) -> np.ndarray:
    header = look(item, where, MAX_PIXELS, whole=True)
    return np.asarray(item) if header.pixels is None else header.pixels


def _of_name(key_hash: str, size: Size) -> str:
    return hashlib.sha256(f"{key_hash} {size[0]} {size[1]}".encode()).hexdigest()[:HASH]


def read_audit(data: Data) -> AuditRecord:
    """The record at `data.audit`.

    Raises DataError for files that are missing, damaged, incomplete or of another format version, and for
    a record whose content is not that of `data.audit_content`.
    """
    assert data.audit is not None
    where = f"data.audit={plain(data.audit)}"
    lines, summary = audit_files(data.audit)
    for file in (lines, summary):
        if not file.is_file():
            raise DataError(
                f"{where}: {plain(str(file))} does not exist; audit the images with difflab audit DATASET "
                "--out FOLDER, and give that folder"
            )
    content = audit_content(data.audit)
    if data.audit_content not in (None, content):
        raise DataError(
            f"{where} has the content {content}, but data.audit_content is {plain(str(data.audit_content))}: "
            "put back the record of the run, or remove data.audit_content for a new run"
        )
    counted = _summary(summary, where)
    by_pixels, rows = _read_lines(lines, counted, where)
    if len(rows) != counted.images:
        raise DataError(f"{where} has {len(rows):,} of {counted.images:,} images; {AGAIN}")
    for name, positions in (
        ("known synthetic", counted.per_image.known_synthetic),
        ("known real", counted.per_image.known_real),
    ):
        for i in positions:
            if not 0 <= i < len(rows):
                raise DataError(f"{where}: audit.json is damaged (there is no image {i}); {AGAIN}")
            rows[i] = (rows[i][0], rows[i][1] | BITS[name])
    return _sorted(data.audit, counted, by_pixels, rows, where)


def _summary(path: Path, where: str) -> _Summary:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "images" not in content:
            raise DataError(f"{where}: audit.json is no record of an audit; give the folder of --out")
        _check_version(content.get("difflab_audit"), "audit.json", where)
        return _Summary.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (OSError, ValueError, RecursionError) as error:
        reason = f"no JSON, {type(error).__name__}"
    raise DataError(f"{where}: audit.json is damaged ({plain(reason)}); {AGAIN}")


def _check_version(version: Any, file: str, where: str) -> None:
    if version is None:
        raise DataError(f"{where}: {file} was written by an older version of difflab; {AGAIN}")
    if version != VERSION:
        raise DataError(
            f"{where}: {file} has the format version {plain(str(version)[:20])}, and this version of difflab "
            f"reads {VERSION}; audit the images again"
        )


def _read_lines(path: Path, counted: _Summary, where: str) -> tuple[bool, list[tuple[int, int]]]:
    """Whether images are looked up by pixels; and identity and bits of each image. 0 = it cannot be read."""
    rows: list[tuple[int, int]] = []
    threshold = counted.per_image.probe_threshold
    with open(path, "rb") as handle:
        head = _head(next(handle, b""), where)
        by_pixels = head.get("pixels") is True
        for number, raw in enumerate(handle, 2):
            try:
                if not raw.endswith(b"\n"):
                    raise ValueError("cut off")
                rows.append(_row(_Line.model_validate_json(raw), by_pixels, threshold))
            except ValueError:
                raise DataError(
                    f"{where}: images.jsonl is damaged or cut off in line {number}; {AGAIN}"
                ) from None
    return by_pixels, rows


def _head(raw: bytes, where: str) -> dict[str, Any]:
    try:
        head = json.loads(raw)
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or "difflab_audit" not in head:
        raise DataError(f"{where}: images.jsonl is no record of an audit; give the folder of --out")
    _check_version(head["difflab_audit"], "images.jsonl", where)
    return head


def _row(line: _Line, by_pixels: bool, threshold: float | None) -> tuple[int, int]:
    if line.failed:
        return 0, 0
    identity = line.content if by_pixels else _of_name(line.key, (line.size[0], line.size[1]))
    bits = 0
    if "synthetic" in line.found:
        bits |= BITS["signed" if line.found["synthetic"] == "c2pa" else "declared synthetic"]
    if "real" in line.found:
        bits |= BITS["declared real"]
    for name in ("watermark", "hidden text", "file name"):
        if name in line.found:
            bits |= BITS[name]
    if threshold is not None and line.score is not None and line.score > threshold:
        bits |= BITS["probe"]
    return int(identity or "0", 16), bits


def _sorted(
    path: str, counted: _Summary, by_pixels: bool, rows: list[tuple[int, int]], where: str
) -> AuditRecord:
    """The record of all images that can be read. What was found in one of equal images counts for all."""
    readable = np.array([row for row in rows if row[0]], np.uint64).reshape(-1, 2)
    if not len(readable):
        raise DataError(f"{where} has no image that can be read; audit the images again")
    distinct, place, counts = np.unique(readable[:, 0], return_inverse=True, return_counts=True)
    bits = np.zeros(len(distinct), np.int64)
    np.bitwise_or.at(bits, place, readable[:, 1].astype(np.int64))
    share = counted.share.model_dump()
    return AuditRecord(path, len(rows), len(readable), by_pixels, distinct, counts, bits, share)
