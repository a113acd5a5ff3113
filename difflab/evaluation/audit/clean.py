"""Write an audited set without the images that cross a threshold. Nothing is deleted or changed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from difflab.core import fence
from difflab.core.errors import DataError
from difflab.core.text import plain
from difflab.data.declared import decided, declarations
from difflab.data.listing import Listing
from difflab.data.manifest import validated

ROWS = 500
"""Images per parquet file."""
REASONS = "left_out.csv"
LAYERS = (
    "declared synthetic",
    "watermark",
    "known synthetic",
    "probe",
    "file name",
    "exact copies",
    "near copies",
)
"""Layers whose images can be left out."""
DEFAULT = ("declared synthetic", "watermark", "known synthetic")


def check_out(out: Path) -> None:
    """Raise DataError if `out` exists: nothing is overwritten."""
    if out.exists():
        raise DataError(f"{out} exists already; give another folder with --write")


def check_layers(names: Sequence[str]) -> None:
    """Raise DataError for a layer that is unknown."""
    for name in names:
        if name not in LAYERS:
            raise DataError(f"leave out: there is no layer '{name}'; the layers are {', '.join(LAYERS)}")


def reasons_of(
    masks: Mapping[str, np.ndarray], readable: np.ndarray, leave_out: Sequence[str]
) -> dict[int, str]:
    """Position -> why the image is left out: it cannot be read, or the layers that found something.

    Layers that the audit did not look at leave out nothing.
    """
    reasons = {int(i): ["cannot be read"] for i in np.flatnonzero(~readable)}
    for name in leave_out:
        for i in np.flatnonzero(masks.get(name, np.zeros(len(readable), bool))):
            reasons.setdefault(int(i), []).append(name)
    return {i: "; ".join(found) for i, found in sorted(reasons.items())}


def write_clean(listing: Listing, reasons: Mapping[int, str], out: Path) -> int:
    """Write the images without a reason as parquet files in the folder `out`, and return their number.

    The files hold the encoded images as they were, with their captions and labels, and with columns `origin`
    and `depth` if a table of the set declares them. `data.source=parquet:OUT` opens them. `left_out.csv` has
    the name of each other image with its reason.

    Raises DataError if `out` exists, or if no image remains.
    """
    check_out(out)
    kept = [i for i in range(len(listing.keys)) if i not in reasons]
    if not kept:
        raise DataError(f"all {len(listing.keys)} images are left out, so that {out} would be empty")
    with fence.atomic_folder(out) as partial:
        for number, start in enumerate(range(0, len(kept), ROWS)):
            _write(listing, kept[start : start + ROWS], partial / f"images-{number:05d}.parquet")
        table = io.StringIO()
        rows = csv.writer(table)
        rows.writerow(["file_name", "reason"])
        rows.writerows((plain(listing.keys[i]), reason) for i, reason in reasons.items())
        (partial / REASONS).write_text(table.getvalue(), encoding="utf-8")
    return len(kept)


def _write(listing: Listing, positions: Sequence[int], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    encoded = [{"bytes": _encoded(listing.items[i]), "path": None} for i in positions]
    columns: dict[str, Any] = {
        "image": pa.array(encoded, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    }
    if listing.labels is not None:
        columns["label"] = pa.array([listing.labels[i] for i in positions])
    if listing.prompts is not None:
        columns["text"] = pa.array([listing.prompts[i] for i in positions], pa.string())
    table_rows = listing.rows
    if table_rows:
        declared = [decided(declarations(listing.items[i], table_rows[i], validated)) for i in positions]
        columns["origin"] = pa.array([found.origin for found in declared], pa.string())
        columns["depth"] = pa.array([found.depth for found in declared], pa.int64())
    pq.write_table(pa.table(columns), path)


def _encoded(item: Any) -> bytes:
    """The encoded image. Arrays and PIL images are encoded as PNG."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, Path):
        return item.read_bytes()
    if isinstance(item, np.ndarray):
        item = Image.fromarray(item[..., 0] if item.ndim == 3 and item.shape[2] == 1 else item)
    buffer = io.BytesIO()
    item.save(buffer, "PNG")
    return buffer.getvalue()
