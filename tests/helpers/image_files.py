"""Images of one colour, damaged images and parquet files for tests."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from difflab.config import Data
from difflab.data.registry import open_source


def picture(path, size=(8, 8), colour=(10, 20, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def png(size=(8, 8), colour=(10, 20, 30)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, format="PNG")
    return out.getvalue()


def cut(path):
    """Damage the pixels but not the header."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize((8, 8)).save(path)
    path.write_bytes(path.read_bytes()[:120])
    return path


def folder(root, **options):
    return open_source(Data(source=f"imagefolder:{root}", **options), 0)


def write_parquet(path, rows, schema=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, **options)
