"""Seeded random damages of everything a user can bring: it is read with the damage accounted for, or refused
in one line that says where.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import pictures
from PIL import Image

from difflab.config import Data, load
from difflab.core.errors import DataError, DifflabError
from difflab.data.image_sets import open_sides
from difflab.data.registry import open_source
from difflab.data.source import Source
from difflab.metrics.concept_set import read_concepts

FORMATS = {
    "png": "PNG",
    "jpg": "JPEG",
    "webp": "WEBP",
    "bmp": "BMP",
    "gif": "GIF",
    "tif": "TIFF",
    "ppm": "PPM",
}
MODES = ("RGB", "L", "RGBA", "P", "1", "CMYK", "I;16", "LA", "F")
ODD = ("\u2028", "\x85", "\x0b", "\ud83d", "\x00", "\ufeff", "\u202e", "a" * 5000, "", "\r", '"', "\\", "🙂")
VALUES = (None, 3, -1, 2.5, True, [], ["a"], {"a": 1}, float("nan"), 10**30, *ODD)


def damaged(raw: bytes, rng: np.random.Generator) -> bytes:
    """Bytes cut, swapped, flipped, inserted, zeroed or repeated; one in eight as it is."""
    raw, kind = bytearray(raw), rng.integers(8)
    at, length = int(rng.integers(len(raw) + 1)), int(rng.integers(1, 40))
    if kind == 0:
        del raw[at:]
    elif kind == 1:
        del raw[at : at + length]
    elif kind == 2:
        raw[at:at] = rng.bytes(length)
    elif kind == 3:
        raw[at : at + length] = bytes(length)
    elif kind == 4:
        raw[at : at + length] = raw[at : at + length][::-1]
    elif kind == 5:
        raw[at:at] = raw[at : at + length]
    elif kind == 6:
        for place in rng.integers(0, max(1, len(raw)), 3):
            raw[place : place + 1] = rng.bytes(1)
    return bytes(raw)


def encoded(suffix: str, rng: np.random.Generator) -> bytes:
    """A small picture in any mode that the format knows, with metadata that may be junk and frames that may
    be several.
    """
    mode, out = MODES[rng.integers(len(MODES))], io.BytesIO()
    picture = pictures(1, 12, int(rng.integers(1000)))[0]
    options = [
        {},
        {"exif": b"Exif\0\0" + rng.bytes(30)},
        {"icc_profile": rng.bytes(50)},
        {"comment": b"x"},
        {"save_all": True, "append_images": [picture]},
    ]
    try:
        image = (
            Image.fromarray(np.full((12, 12), 999, np.uint16)) if mode == "I;16" else picture.convert(mode)
        )
        image.save(out, FORMATS[suffix], **options[rng.integers(len(options))])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        SyntaxError,
    ):  # not in this format, or not with these options
        out = io.BytesIO()
        picture.save(out, FORMATS[suffix])
    raw = out.getvalue()
    if suffix == "png" and rng.integers(2):  # hostile chunks, before or behind the pixels
        kind = (b"zTXt", b"iTXt", b"iCCP", b"tEXt", b"eXIf", b"acTL", b"tRNS", b"pHYs", b"abCd")[
            rng.integers(9)
        ]
        data = (
            b"k\0\0" + zlib.compress(bytes(3 << 20)),
            b"k\0\1\0\0\0" + zlib.compress(bytes(3 << 20)),
            rng.bytes(12),
            b"",
        )[rng.integers(4)]
        at = raw.index((b"IDAT", b"IEND")[rng.integers(2)]) - 4
        raw = (
            raw[:at]
            + len(data).to_bytes(4, "big")
            + kind
            + data
            + zlib.crc32(kind + data).to_bytes(4, "big")
            + raw[at:]
        )
    if suffix == "jpg" and rng.integers(2):
        segment = (
            b"Exif\0\0",
            b"ICC_PROFILE\0",
            b"MPF\0II*\0\x08\0\0\0",
            b"Photoshop 3.0\x008BIM\x03\xed",
            b"Adobe",
            b"JFIF\0",
        )[rng.integers(6)] + rng.bytes(6)
        raw = (
            raw[:2]
            + bytes([0xFF, int(rng.choice([0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE]))])
            + (len(segment) + 2).to_bytes(2, "big")
            + segment
            + raw[2:]
        )
    return raw


def text(rng: np.random.Generator) -> str:
    return "a picture " + "".join(ODD[i] for i in rng.integers(0, len(ODD), 2))


def written(folder: Path, rng: np.random.Generator, n: int = 4) -> list[str]:
    """`n` sound pictures."""
    folder.mkdir()
    for i, picture in enumerate(pictures(n, 8, int(rng.integers(1000)))):
        picture.save(folder / f"{i}.png")
    return [f"{i}.png" for i in range(n)]


# --------------------------------------------------------------------------- one set of every kind, damaged
def images_of(suffix: str):
    def make(root: Path, rng: np.random.Generator) -> str:
        written(root, rng, 2)
        for i in range(2):
            (root / f"d{i}.{suffix}").write_bytes(damaged(encoded(suffix, rng), rng))
        return f"imagefolder:{root}"

    return make


def jsonl(root: Path, rng: np.random.Generator) -> str:
    rows = [
        {"file_name": name, "text": text(rng), "label": i % 2} for i, name in enumerate(written(root, rng))
    ]
    if rng.integers(2):
        rows[rng.integers(4)][("file_name", "text", "label", "odd")[rng.integers(4)]] = VALUES[
            rng.integers(len(VALUES))
        ]
    raw = "\n".join(json.dumps(row, ensure_ascii=bool(rng.integers(2))) for row in rows).encode(
        "utf-8", "surrogatepass"
    )
    (root / "metadata.jsonl").write_bytes(damaged((b"\xef\xbb\xbf", b"")[rng.integers(2)] + raw, rng))
    return f"imagefolder:{root}"


def table_csv(root: Path, rng: np.random.Generator) -> str:
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(["file_name", "text", "label"])
    for i, name in enumerate(written(root, rng)):
        writer.writerow([name, text(rng), i % 2])
    (root / "metadata.csv").write_bytes(damaged(lines.getvalue().encode("utf-8", "surrogatepass"), rng))
    return f"imagefolder:{root}"


def sidecars(root: Path, rng: np.random.Generator) -> str:
    for name in written(root, rng):
        suffix, caption = (
            ".txt" if rng.integers(20) else ".caption",
            text(rng).encode("utf-8", "surrogatepass" if rng.integers(4) == 0 else "ignore"),
        )
        (root / name).with_suffix(suffix).write_bytes(caption if rng.integers(2) else damaged(caption, rng))
    return f"imagefolder:{root}"


def parquet(root: Path, rng: np.random.Generator) -> str:
    root.mkdir()
    cells = [encoded("png", rng) for _ in range(4)]
    columns = {
        "image": [{"bytes": damaged(cell, rng), "path": None} for cell in cells],
        "label": [0, 1, 0, 1],
        "text": ["a", "b", "c", "d"],
    }
    if rng.integers(2):
        values = [
            value
            for value in VALUES
            if not isinstance(value, (list, dict)) and value != "\ud83d" and value != 10**30
        ]
        columns[("label", "text")[rng.integers(2)]] = [
            str(value) if isinstance(value, str) else None
            for value in rng.choice(np.array(values, object), 4)
        ]
    pq.write_table(
        pa.table(columns),
        root / "a.parquet",
        row_group_size=2,
        write_page_checksum=bool(rng.integers(2)),
        compression="none",
    )
    (root / "a.parquet").write_bytes(damaged((root / "a.parquet").read_bytes(), rng))
    return f"parquet:{root}"


MAKERS = {f"images {suffix}": images_of(suffix) for suffix in FORMATS}
MAKERS |= {"metadata.jsonl": jsonl, "metadata.csv": table_csv, "sidecars": sidecars, "parquet": parquet}
CASES = 14  # of each kind


def sound(source: Source) -> None:
    """What is read is whole, and every image that came in is accounted for."""
    for i in range(len(source)):
        image = source.read(i)
        assert image.dtype == np.uint8 and image.shape == source.record
    account = source.account
    assert account.found == account.read + account.count("skipped") + account.count(
        "unlisted"
    ) and account.read == len(source)
    for prompt in source.prompts or []:
        prompt.encode()
    assert all("\n" not in line for line in account.lines())


def survives(use, where: str) -> bool:
    """Whether `use` came through; a refusal is one line that names `where`."""
    try:
        use()
    except DifflabError as error:
        assert "\n" not in str(error) and where in str(error), str(error)
        return False
    return True


@pytest.mark.parametrize("kind", MAKERS)
def test_sets_of_a_run_and_of_compare(kind, tmp_path):
    outcomes = set()
    for seed in range(CASES):
        rng = np.random.default_rng([seed, *kind.encode()])
        root = tmp_path / str(seed)
        source = MAKERS[kind](root, rng)
        bad = ("error", "skip")[seed % 2]
        outcomes.add(
            survives(
                lambda: sound(open_source(Data(source=source, image_size=8, bad_images=bad), 0)),  # noqa: B023
                str(root),  # noqa: B023, RUF100
            )
        )
        outcomes.add(survives(lambda: sound(open_sides({"real": root}, 8, 1.0, [])["real"]), str(root)))  # noqa: B023
    assert outcomes == {True, False}  # neither is everything refused, nor nothing


def test_arrays(tmp_path):
    outcomes = set()
    for seed in range(2 * CASES):
        rng = np.random.default_rng(seed)
        path = tmp_path / (f"{seed}.npz" if seed % 3 else f"{seed}.npy")
        images = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
        with open(path, "wb") as handle:
            if path.suffix == ".npy":
                np.save(handle, images)
            else:
                (np.savez, np.savez_compressed)[seed % 2](handle, images, np.arange(4))
        path.write_bytes(damaged(path.read_bytes(), rng))
        outcomes.add(survives(lambda: sound(open_sides({"real": path}, 8, 0.0, [])["real"]), str(path)))  # noqa: B023
    assert outcomes == {True, False}


def test_pil_images():
    for seed in range(2 * CASES):
        rng = np.random.default_rng(seed)
        opened = []
        for suffix in FORMATS:
            try:
                opened.append(Image.open(io.BytesIO(damaged(encoded(suffix, rng), rng))))
            except Exception:  # Pillow's to say, before difflab sees it
                continue
        survives(lambda: sound(open_sides({"real": [*opened, *pictures(2, 8)]}, 8, 1.0, [])["real"]), "real")  # noqa: B023


def test_text_files(tmp_path):
    """Concepts and configs."""
    outcomes = set()
    for seed in range(2 * CASES):
        rng = np.random.default_rng(seed)
        path = tmp_path / f"{seed}.txt"
        path.write_bytes(
            damaged(
                f'cat\n{{"concept": "dog", "prompt": "{text(rng)}"}}\nred {text(rng)}\n'.encode(
                    "utf-8", "surrogatepass"
                ),
                rng,
            )
        )
        outcomes.add(survives(lambda: [name.encode() for name in read_concepts(path)], str(path)))  # noqa: B023
        path.write_bytes(damaged(b"name: a\nseed: 3\nmodel:\n  family: memoriser\n", rng))
        outcomes.add(survives(lambda: load(path), str(path)))  # noqa: B023
    assert outcomes == {True, False}


def test_a_refusal_is_a_data_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        open_source(Data(source=f"imagefolder:{tmp_path}"), 0)
