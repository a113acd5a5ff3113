"""Data sets of the Hugging Face hub, over the optional package `datasets`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from difflab.config import Data
from difflab.data.decode import decode, survey
from difflab.data.parquet import assemble, named
from difflab.data.sources import Source
from difflab.errors import DataError


@dataclass(frozen=True)
class _HubReader:
    rows: Any  # a datasets.Dataset of one undecoded image column: memory-mapped, so any order is fast
    column: str
    kept: list[int]
    keys: list[str]
    max_pixels: int
    size: int
    channels: int

    def __call__(self, index: int) -> np.ndarray:
        row = self.kept[index]
        return decode(_file(self.rows[row][self.column]) or b"", self.keys[row], self.max_pixels, self.size, self.channels)


def open_hub(data: Data, argument: str) -> Source:
    """hub:NAME or hub:OWNER/NAME. The split is `train`, or the only one there is.

    The image column is the one of type Image; the class is data.label, or the column `label`; the prompt is `text`,
    `prompt` or `caption`. Raises DataError: package `datasets` missing, offline, no such set, no image column.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", argument):
        raise DataError(f"data.source={data.source}: a hub name looks like NAME or OWNER/NAME")
    if Path(argument).exists():  # `datasets` would silently prefer it to the hub
        raise DataError(
            f"data.source={data.source}: {argument} is also a folder here; for that use data.source=imagefolder:{argument} or parquet:{argument}"
        )
    if find_spec("datasets") is None:
        raise DataError("data.source=hub:NAME needs the package datasets; run: pip install datasets")
    import datasets

    dataset = _load(datasets, argument, data.source)
    images = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if len(images) != 1:
        what = f"several image columns ({', '.join(images)})" if images else f"no image column (it has: {', '.join(dataset.features)})"
        raise DataError(f"data.source={data.source} has {what}; save the one you want as 'image' with to_parquet and use parquet:PATH")
    label = data.label or ("label" if "label" in dataset.features else None)
    if label is not None and label not in dataset.features:
        raise DataError(f"data.source={data.source} has no column '{label}' that data.label asks for (it has: {', '.join(dataset.features)})")
    text = next((name for name in ("text", "prompt", "caption") if name in dataset.features), None)

    labels = None if label is None else list(dataset[label])
    if labels is not None and isinstance(dataset.features[label], datasets.ClassLabel):
        labels = named(labels, dataset.features[label].names)
    rows = dataset.select_columns(images).cast_column(images[0], datasets.Image(decode=False))
    keys = [f"{argument}/{row}" for row in range(len(rows))]
    found = survey(((key, _file(row[images[0]])) for key, row in zip(keys, rows, strict=True)), data, data.source)
    licence = dataset.info.license or "see the data set's page on the hub"
    read = _HubReader(rows, images[0], found.kept, keys, data.max_pixels, found.size, found.channels)
    return assemble(data, found, keys, labels, None if text is None else list(dataset[text]), licence, read)


def _load(datasets: Any, name: str, source: str) -> Any:
    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # requests, httpx, hub and builder errors share no base class
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"data.source={source} cannot be loaded ({type(error).__name__}: {reason}); check the name and the connection. "
            "Without a hub use digits, emoji, imagefolder:PATH or parquet:PATH"
        ) from error
    if "train" in splits:
        return splits["train"]
    if len(splits) == 1:
        return next(iter(splits.values()))
    raise DataError(
        f"data.source={source} has no split 'train' (it has: {', '.join(splits)}); save the one you want with to_parquet and use parquet:PATH"
    )


def _file(image: dict[str, Any] | None) -> Path | bytes | None:
    """The encoded image of a cell. A path is followed only into the cache that `datasets` filled, never elsewhere on this machine."""
    if image is None or image["bytes"] is not None:
        return None if image is None else image["bytes"]
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    path = Path(image["path"] or "")
    roots = [Path(root).expanduser().resolve() for root in (config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, HF_HUB_CACHE)]
    return path if any(path.resolve().is_relative_to(root) for root in roots) else None
