"""Data sets of the Hugging Face hub, over the optional package `datasets`, and its Dataset objects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.listing import (
    CAPTIONS,
    Listing,
    captions,
    chosen,
    label_column,
    named,
    sound_labels,
    source_of,
)
from difflab.data.source import Source


@dataclass(frozen=True)
class _Cells:
    """Row -> the encoded image, or its file. anywhere = files may lie anywhere, else only in the cache that
    `datasets` filled.
    """

    rows: Any  # a datasets.Dataset of one undecoded image column: memory-mapped, so any order is fast
    column: str
    anywhere: bool

    def __getitem__(self, row: int) -> Path | bytes | None:
        try:
            image = self.rows[row][self.column]
        except Exception as error:  # a damaged arrow file
            raise DataError(
                f"row {row} cannot be read ({' '.join(str(error).split())[:300]}); load the data set again"
            ) from error
        if image is None or image["bytes"] is not None:
            return None if image is None else image["bytes"]
        path = Path(image["path"] or "")
        return path if image["path"] and (self.anywhere or _in_cache(path)) else None


def _in_cache(path: Path) -> bool:
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    roots = [
        Path(root).expanduser().resolve()
        for root in (config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, HF_HUB_CACHE)
    ]
    return any(path.resolve().is_relative_to(root) for root in roots)


def open_hub(data: Data, argument: str) -> Source:
    """hub:NAME or hub:OWNER/NAME. The split is `train`, or the only one there is.

    The image column is the one of type Image; the class is data.label, or the column `label`; the caption is
    data.caption_column, or `text`, `prompt` or `caption`. Raises DataError: package `datasets` missing,
    offline, no such set, no image column.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", argument):
        raise DataError(f"data.source={data.source}: a hub name looks like NAME or OWNER/NAME")
    if Path(argument).exists():  # `datasets` would silently prefer it to the hub
        raise DataError(
            f"data.source={data.source}: {argument} is also a folder here; for that use "
            f"data.source=imagefolder:{argument} or parquet:{argument}"
        )
    if find_spec("datasets") is None:
        raise DataError("data.source=hub:NAME needs the package datasets; run: pip install datasets")
    import datasets

    return source_of(
        list_dataset(_load(datasets, argument, data.source), data, argument, anywhere=False), data
    )


def is_dataset(thing: Any) -> bool:
    """Whether something is a Dataset, DatasetDict, ... of the package `datasets`, which is not imported for
    it.
    """
    return any(kind.__module__.partition(".")[0] == "datasets" for kind in type(thing).__mro__)


def list_dataset(dataset: Any, data: Data, name: str, anywhere: bool) -> Listing:
    """The rows of a datasets.Dataset. anywhere = files that it points at are read wherever they lie; for sets
    that the user opened.

    Raises DataError: another object of that package, no or several image columns, unusable labels or
    captions.
    """
    import datasets

    where = f"data.source={data.source}" if not anywhere else name
    image_column = _image_column(dataset, where)
    columns = list(dataset.features)
    label = label_column(data, columns, where)
    text = chosen(data.caption_column, CAPTIONS, columns, "data.caption_column", where)
    dataset = dataset.with_format(None)
    keys = [f"{name}/{row}" for row in range(len(dataset))]

    def place(row: int) -> str:
        return f"{where}: image {keys[row]}"

    try:
        labels = None if label is None else list(dataset[label])
        texts = None if text is None else list(dataset[text])
        rows = dataset.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    except Exception as error:  # a damaged arrow file
        raise DataError(
            f"{where} cannot be read ({' '.join(str(error).split())[:300]}); load the data set again"
        ) from error
    if labels is not None and isinstance(dataset.features[label], datasets.ClassLabel):
        labels = named(labels, dataset.features[label].names)
    if labels is not None and data.label is None and all(value is None for value in labels):
        labels = None
    if texts is not None and data.caption_column is None and all(value is None for value in texts):
        texts = None
    return Listing(
        data.source,
        where,
        keys,
        _Cells(rows, image_column, anywhere),
        None if labels is None else sound_labels(labels, place),
        None if texts is None or text is None else captions(texts, text, place),
        dataset.info.license or "see the data set's page on the hub",
        tuple(column for column in columns if column != image_column),
    )


def _image_column(dataset: Any, where: str) -> str:
    """The only column of type Image. Raises DataError if there is none or more than one."""
    import datasets

    if isinstance(dataset, dict):
        raise DataError(
            f"{where} has several splits ({', '.join(map(str, dataset))}); give one of them, as "
            "dataset['train']"
        )
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(
            f"{where} is a {type(dataset).__name__}; give a datasets.Dataset, whose images can be read in "
            "any order"
        )
    images = [column for column, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if len(images) != 1:
        what = (
            f"several image columns ({', '.join(images)})"
            if images
            else f"no image column (it has: {', '.join(dataset.features)})"
        )
        raise DataError(
            f"{where} has {what}; save the one you want as 'image' with to_parquet and use parquet:PATH"
        )
    return images[0]


def _load(datasets: Any, name: str, source: str) -> Any:
    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # requests, httpx, hub and builder errors share no base class
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"data.source={source} cannot be loaded ({type(error).__name__}: {reason}); check the name and "
            "the connection. "
            "Without a hub use digits, emoji, imagefolder:PATH or parquet:PATH"
        ) from error
    if "train" in splits:
        return splits["train"]
    if len(splits) == 1:
        return next(iter(splits.values()))
    raise DataError(
        f"data.source={source} has no split 'train' (it has: {', '.join(splits)}); save the one you want "
        "with to_parquet and use parquet:PATH"
    )
