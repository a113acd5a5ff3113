"""The ledger: one row per image with the image itself and its origin.

Hugging Face ``datasets`` reads it: ``load_dataset("parquet", data_files=...)`` decodes the images.
"""

from __future__ import annotations

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from difflab.core.hashing import content_hash

REAL = -1  # the generation of a real image

IMAGE_COLUMNS = [
    ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
]
VALUE_COLUMNS = [
    ("values", pa.list_(pa.float64())),  # [replicates * dim], row-major
]
COLUMNS = [
    ("index", pa.int64()),
    ("lab", pa.int32()),
    ("generation", pa.int32()),  # -1 = real
    ("kind", pa.dictionary(pa.int8(), pa.string())),  # real | synthetic
    ("split", pa.dictionary(pa.int8(), pa.string())),  # train | held_out | sample | probe
    ("label", pa.int64()),  # null = unconditional
    ("class", pa.dictionary(pa.int32(), pa.string())),
    ("prompt", pa.string()),
    ("key", pa.string()),  # the name of a real image in its source
    ("seed", pa.int64()),  # null for real images
    ("flag", pa.dictionary(pa.int8(), pa.string())),  # null | constant
    ("model_hash", pa.dictionary(pa.int8(), pa.string())),  # hash of the weights that drew the image
    ("parents_hash", pa.dictionary(pa.int8(), pa.string())),  # hash of the training set of those weights
    ("settings", pa.dictionary(pa.int8(), pa.string())),  # scheduler, steps, guidance_scale as JSON
    ("sha256", pa.string()),  # hash of shape and pixels, whatever the encoding
]
ORIGIN_COLUMNS = [
    ("origin", pa.dictionary(pa.int8(), pa.string())),  # real | synthetic | unknown
    ("depth", pa.int32()),  # models between the image and real images, see runs/origins.py; null = unknown
    ("declared_by", pa.dictionary(pa.int8(), pa.string())),  # the layer that says so, see data/declared.py
]
"""Ledgers of older versions do not have these columns."""
WEIGHT_COLUMNS = [("weight", pa.float64())]  # of real images in the loss; only if data.weight is set
SIZE_COLUMNS = [("height", pa.int32()), ("width", pa.int32())]  # only in sets of several sizes


def schema(
    images: bool, several_sizes: bool = False, origins: bool = True, weights: bool = False
) -> pa.Schema:
    """The columns of the ledger of images, or of the numbers of an exact family.

    origins: False = the columns of older versions, without ORIGIN_COLUMNS. weights: with WEIGHT_COLUMNS.
    """
    columns = COLUMNS + (ORIGIN_COLUMNS if origins else []) + (SIZE_COLUMNS if several_sizes else [])
    columns += WEIGHT_COLUMNS if weights else []
    fields = [pa.field(name, kind) for name, kind in (IMAGE_COLUMNS if images else VALUE_COLUMNS) + columns]
    if not images:
        return pa.schema(fields)
    plain = {"int64": "int64", "int32": "int32", "string": "string", "double": "float64"}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    for name, kind in columns:
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        features[name] = {"dtype": plain[str(value)], "_type": "Value"}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode the pixels uint8 [H, W, 1 or 3] as PNG.

    Compression level 1 is 3.5 times as fast as Pillow's default at 512 px. PNG is lossless at every level.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode_png(payload: bytes) -> np.ndarray:
    """The pixels of a PNG, uint8 [H, W, C]."""
    array = np.asarray(Image.open(io.BytesIO(payload)))
    return array[..., None] if array.ndim == 2 else array


def flag_of(pixels: np.ndarray) -> str | None:
    """The value of the column flag: 'constant' for an image of one colour, such as black; else None."""
    flat = pixels.reshape(-1, pixels.shape[-1])
    return "constant" if bool((flat == flat[0]).all()) else None


def table(columns: dict[str, Any], pixels: np.ndarray, images: bool, several_sizes: bool = False) -> pa.Table:
    """Build rows of the ledger.

    Args:
        columns: for each column a list or array with a value for each row, or one value for all rows. Missing
            columns are null.
        pixels: images uint8 [n, H, W, C], or numbers of the exact families float64 [n, R, d].
        images: whether the rows are images.
        several_sizes: whether the images of the set have several sizes, see `core.ragged`.
    """
    n = len(pixels)
    shape = schema(images, several_sizes, weights="weight" in columns)
    arrays: dict[str, Any] = {"flag": [flag_of(p) if images else None for p in pixels]}
    # Threads run in parallel here because hashing and deflating release the global interpreter lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        arrays["sha256"] = list(pool.map(content_hash, pixels))
        if images:
            arrays["image"] = [{"bytes": png, "path": None} for png in pool.map(encode_png, pixels)]
    if not images:
        arrays["values"] = list(pixels.reshape(n, -1))
    if several_sizes:
        arrays["height"], arrays["width"] = ([p.shape[axis] for p in pixels] for axis in (0, 1))
    for name, value in columns.items():
        arrays[name] = value if isinstance(value, list | np.ndarray) else [value] * n
    return pa.table([pa.array(arrays.get(f.name, [None] * n), f.type) for f in shape], schema=shape)
