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
WEIGHTS = "weights.csv"
COLUMN = "weight"
"""Column of the weights, which data.weight names; `weight_reason` has the reason."""
Weighted = Mapping[int, tuple[float, str]]
"""Position of an image -> its weight in the loss, and why it is not 1."""
LAYERS = (
    "declared synthetic",
    "watermark",
    "hidden text",
    "known synthetic",
    "probe",
    "file name",
    "exact copies",
    "near copies",
)
"""Layers whose images can be left out."""
DEFAULT = ("declared synthetic", "watermark", "hidden text", "known synthetic")


def check_out(out: Path) -> None:
    """Raise DataError if `out` exists: nothing is overwritten."""
    if out.exists():
        raise DataError(f"{out} exists already; give another folder with --write")


def check_layers(names: Sequence[str]) -> None:
    """Raise DataError for a layer that is unknown."""
    for name in names:
        if name not in LAYERS:
            raise DataError(f"leave out: there is no layer '{name}'; the layers are {', '.join(LAYERS)}")


def check_weights(weights: Mapping[str, float], leave_out: Sequence[str]) -> None:
    """Raise DataError for an unknown layer, a weight outside of 0 to 1, and a layer that is left out too."""
    check_layers(tuple(weights))
    for name, weight in weights.items():
        if not 0 <= weight <= 1:
            raise DataError(f"weight: {name}={weight:g} must be from 0 to 1")
        if name in leave_out:
            raise DataError(f"weight: '{name}' is in leave out too; name it in one of them")


def weights_of(masks: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> dict[int, tuple[float, str]]:
    """Position -> weight and reason of each image that a layer of `weights` finds.

    An image in several of them has the smallest of their weights.
    """
    found: dict[int, dict[str, float]] = {}
    for name, weight in weights.items():
        for i in np.flatnonzero(masks.get(name, np.zeros(0, bool))):
            found.setdefault(int(i), {})[name] = weight
    return {
        i: (min(of_image.values()), "; ".join(f"{name}: {weight:g}" for name, weight in of_image.items()))
        for i, of_image in sorted(found.items())
    }


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


def write_clean(
    listing: Listing, reasons: Mapping[int, str], out: Path, weights: Weighted | None = None
) -> int:
    """Write the images without a reason as parquet files in the folder `out`, and return their number.

    The files hold the encoded images as they were, with their captions and labels, and with columns `origin`
    and `depth` if a table of the set declares them. `data.source=parquet:OUT` opens them. `left_out.csv` has
    the name of each other image with its reason.

    With `weights` the files have the columns `weight`, which `data.weight=weight` reads, and `weight_reason`;
    `weights.csv` has the name of each image whose weight is not 1. {} = all weights are 1.

    Raises DataError if `out` exists, or if no image remains.
    """
    check_out(out)
    kept = [i for i in range(len(listing.keys)) if i not in reasons]
    if not kept:
        raise DataError(f"all {len(listing.keys)} images are left out, so that {out} would be empty")
    with fence.atomic_folder(out) as partial:
        for number, start in enumerate(range(0, len(kept), ROWS)):
            _write(listing, kept[start : start + ROWS], partial / f"images-{number:05d}.parquet", weights)
        left_out = [(plain(listing.keys[i]), reason) for i, reason in reasons.items()]
        _write_csv(partial / REASONS, ("file_name", "reason"), left_out)
        if weights is not None:
            of_kept = {i: weights[i] for i in weights if i not in reasons}
            weighted = [(plain(listing.keys[i]), weight, why) for i, (weight, why) in of_kept.items()]
            _write_csv(partial / WEIGHTS, ("file_name", COLUMN, "reason"), weighted)
    return len(kept)


def _write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = io.StringIO()
    lines = csv.writer(table)
    lines.writerow(head)
    lines.writerows(rows)
    path.write_text(table.getvalue(), encoding="utf-8")


def _write(listing: Listing, positions: Sequence[int], path: Path, weights: Weighted | None) -> None:
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
    if weights is not None:
        of_image = [weights.get(i, (1.0, "")) for i in positions]
        columns[COLUMN] = pa.array([weight for weight, _ in of_image], pa.float64())
        columns["weight_reason"] = pa.array([reason for _, reason in of_image], pa.string())
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
