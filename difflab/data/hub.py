"""Read data sets of the Hugging Face hub and `datasets.Dataset` objects.

Needs the optional package `datasets`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from difflab.config import Data
from difflab.core.errors import DataError
from difflab.data.declared import COLUMNS
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
from difflab.data.weights import as_weights


@dataclass(frozen=True)
class _Cells:
    """Maps a row to its encoded image or to the path of its file; None if it has neither.

    rows: a datasets.Dataset with one column of undecoded images. It is memory-mapped, so every order of
    reading is fast. anywhere: read files in any folder; otherwise only files in the caches of `datasets` and
    of the hub.
    """

    rows: Any
    column: str
    anywhere: bool

    def __getitem__(self, row: int) -> Path | bytes | None:
        try:
            image = self.rows[row][self.column]
        except Exception as error:  # a damaged arrow file
            raise DataError(
                f"row {row} cannot be read ({' '.join(str(error).split())[:300]}); download the data set "
                "again"
            ) from error
        if image is None or image["bytes"] is not None:
            return None if image is None else image["bytes"]
        path = Path(image["path"] or "")
        return path if image["path"] and (self.anywhere or _in_cache(path)) else None


def _in_cache(path: Path) -> bool:
    """Whether a file is in a cache of `datasets` or of the hub."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    roots = [
        Path(root).expanduser().resolve()
        for root in (config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, HF_HUB_CACHE)
    ]
    return any(path.resolve().is_relative_to(root) for root in roots)


def open_hub(data: Data, argument: str) -> Source:
    """Open hub:NAME or hub:OWNER/NAME.

    Raises the same DataError as `list_hub`, and for images that cannot be used.
    """
    return source_of(list_hub(data, argument), data)


def list_hub(data: Data, argument: str) -> Listing:
    """The images of hub:NAME with their labels and captions. No image is opened.

    The split is `train`, or the only split of the set. The image column is the only column of the type Image.
    The class is the column data.label, by default `label`. The caption is the column data.caption_column, by
    default the first of `text`, `prompt` and `caption`.

    Raises DataError if the package `datasets` is missing, if the set cannot be loaded, and if it does not
    have one image column.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", argument):
        raise DataError(f"data.source={data.source}: the name of a hub set looks like NAME or OWNER/NAME")
    if Path(argument).exists():  # `datasets` would read this path instead of the hub, without a warning
        raise DataError(
            f"data.source={data.source}: {argument} also exists in the current folder; to read it, use "
            f"data.source=imagefolder:{argument} or parquet:{argument}"
        )
    if find_spec("datasets") is None:
        raise DataError("data.source=hub:NAME needs the package datasets; run: pip install datasets")
    import datasets

    return list_dataset(_load(datasets, argument, data.source), data, argument, anywhere=False)


def is_dataset(thing: Any) -> bool:
    """Whether an object is of a class of the package `datasets`, such as Dataset.

    It is not imported for this.
    """
    return any(kind.__module__.partition(".")[0] == "datasets" for kind in type(thing).__mro__)


def list_dataset(dataset: Any, data: Data, name: str, anywhere: bool) -> Listing:
    """The rows of a datasets.Dataset with their labels and captions. No image is opened.

    anywhere: read image files in any folder. This is for sets that the user opened. Otherwise only files in
    the caches of `datasets` and of the hub are read.

    Raises DataError for any other object of the package, for no or several image columns, and for labels or
    captions that cannot be used.
    """
    import datasets

    where = f"data.source={data.source}" if not anywhere else name
    image_column = _image_column(dataset, where)
    columns = list(dataset.features)
    label = label_column(data, columns, where)
    text = chosen(data.caption_column, CAPTIONS, columns, "data.caption_column", where)
    weight = chosen(data.weight, (), columns, "data.weight", where)
    dataset = dataset.with_format(None)
    keys = [f"{name}/{row}" for row in range(len(dataset))]

    def place(row: int) -> str:
        return f"{where}: image {keys[row]}"

    told = [name for name in COLUMNS if isinstance(dataset.features.get(name), datasets.Value)]
    try:
        declared_rows = dataset.select_columns(told).to_list() if told else None
        labels = None if label is None else list(dataset[label])
        texts = None if text is None else list(dataset[text])
        weights = None if weight is None else list(dataset[weight])
        rows = dataset.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    except Exception as error:  # a damaged arrow file
        raise DataError(
            f"{where} cannot be read ({' '.join(str(error).split())[:300]}); download the data set again"
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
        rows=declared_rows,
        weights=None if weights is None or weight is None else as_weights(weights, weight, place),
    )


def _image_column(dataset: Any, where: str) -> str:
    """The name of the only column of the type Image. Raises DataError if there is none or more than one."""
    import datasets

    if isinstance(dataset, dict):
        raise DataError(
            f"{where} has several splits ({', '.join(map(str, dataset))}); give one of them, for example "
            "dataset['train']"
        )
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(
            f"{where} is a {type(dataset).__name__}; give a datasets.Dataset, because images are read in any "
            "order"
        )
    images = [column for column, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if len(images) != 1:
        problem = f"no image column (its columns: {', '.join(dataset.features)})"
        if images:
            problem = f"several image columns ({', '.join(images)})"
        raise DataError(
            f"{where} has {problem}; save one column as 'image' with to_parquet, and use parquet:PATH"
        )
    return images[0]


def _load(datasets: Any, name: str, source: str) -> Any:
    """The split `train` of a hub set, or its only split. Raises DataError."""
    try:
        splits = datasets.load_dataset(name)
    # the errors of requests, httpx, the hub and builders have no common base class
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"data.source={source} cannot be loaded ({type(error).__name__}: {reason}); check the name and "
            "the connection, or use digits, emoji, imagefolder:PATH or parquet:PATH, which need no hub"
        ) from error
    if "train" in splits:
        return splits["train"]
    if len(splits) == 1:
        return next(iter(splits.values()))
    raise DataError(
        f"data.source={source} has no split 'train' (its splits: {', '.join(splits)}); save one of them with "
        "to_parquet, and use parquet:PATH"
    )
