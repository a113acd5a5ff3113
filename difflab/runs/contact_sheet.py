"""The contact sheet of an exported set: one picture whose manifest is about the set as a whole.

C2PA signs single files and no folders. The sheet shows samples from the whole generation. Its manifest states
the hash of the set and names what the model was trained on as ingredients with the relationship ``inputTo``:
the training set, and each generation whose samples are in it. The sheet is beside the folder and not in it,
because programs that read image folders would take it for a sample.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from difflab.core.errors import reading
from difflab.core.hashing import content_hash
from difflab.plots.sheet import sheet
from difflab.runs.ledger import REAL, decode_png
from difflab.runs.origins import composition, read_rows, sample_depth
from difflab.runs.run import Run

COLUMNS, ROWS = 8, 8
"""Columns and rows of a sheet. Of larger sets it shows images at equal distances."""
LONGEST = 128
"""Longest side in pixels of an image on the sheet."""
NAME = re.compile(r"\d{6,}\.png")
"""Names of the images of an exported set."""


def sheet_of(folder: Path) -> Path:
    """The place of the sheet of an exported set."""
    return folder.with_name(folder.name + ".sheet.png")


def contact_sheet(run: Run, generation: int) -> bytes:
    """A PNG file with up to 64 samples of a generation."""
    shards = run.samples(generation)
    count = min(len(shards), COLUMNS * ROWS)
    chosen = np.unique(np.linspace(0, len(shards) - 1, count).round().astype(int))
    images = [_small(image) for image in shards.gather(chosen)]
    rows = [("", images[start : start + COLUMNS]) for start in range(0, len(images), COLUMNS)]
    title = f"{run.config.name}, generation {generation}: {len(images)} of {len(shards)} samples"
    out = io.BytesIO()
    sheet(rows, title=title).save(out, "PNG")
    return out.getvalue()


def _small(image: np.ndarray) -> np.ndarray:
    """An image uint8 [H, W, C] of at most `LONGEST` pixels a side."""
    if max(image.shape[:2]) <= LONGEST:
        return np.asarray(image)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(picture.height, picture.width, -1)


def statement_of_set(run: Run, generation: int) -> dict[str, Any]:
    """What difflab's assertion in the manifest of a sheet says: JSON types only."""
    shards = run.samples(generation)
    first = shards.table(0, ["model_hash", "parents_hash"]).slice(0, 1).to_pylist()[0]
    return {
        "run": run.config.name,
        "recipe": run.recipe,
        "generation": generation,
        "depth": sample_depth(run, generation)[0],
        "lab": run.config.lab,
        "images": len(shards),
        "set": shards.hash(),
        "model": first["model_hash"] or "unknown",
        "training_set": first["parents_hash"] or "unknown",
    }


def inputs_of_set(run: Run, generation: int, training_set: str) -> list[dict[str, str]]:
    """What the model was trained on: {title, hash, description} of the training set, then of each generation
    whose samples are in it. If the list of its images is not stored any more, only title and hash of the set.

    training_set: its hash.
    """
    title = f"training set of generation {generation}"
    if not (run.gen(generation) / "train_set.parquet").exists():
        return [{"title": title, "hash": training_set}]
    made_of, rows = composition(run, generation), read_rows(run, generation)
    about = (
        f"{made_of.images} images, {made_of.synthetic_share:.1%} of them count as synthetic, "
        f"{made_of.origins.get('unknown', 0)} of unknown origin, mean depth {made_of.mean_depth:.2f}"
    )
    inputs = [{"title": title, "hash": training_set, "description": about}]
    lab_of_row = rows["lab"].to_numpy() if "lab" in rows.column_names else np.full(len(rows), run.config.lab)
    generation_of_row = rows["generation"].to_numpy()
    for lab, parent in sorted(set(zip(lab_of_row.tolist(), generation_of_row.tolist(), strict=True))):
        if parent == REAL:
            continue
        used = int(((lab_of_row == lab) & (generation_of_row == parent)).sum())
        of_lab = f" of lab {lab}" if run.config.ecosystem is not None else ""
        inputs.append(
            {
                "title": f"samples of generation {parent}{of_lab}",
                "hash": run.labs[lab].samples(parent).hash(),
                "description": f"{used} of its images are in the training set",
            }
        )
    return inputs


def hash_of_images(images: Sequence[Path]) -> str:
    """The hash of an exported set from its files, as `Shards.hash` makes it.

    Raises DataError for an image that cannot be read.
    """
    named = sorted((file for file in images if NAME.fullmatch(file.name)), key=lambda file: file.name)
    hashes = []
    for file in named:
        with reading(file, then="export the set again"):
            hashes.append(content_hash(decode_png(file.read_bytes())))
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
