"""Read images from parquet files that Hugging Face `datasets` or difflab wrote. Only pyarrow is needed."""

from __future__ import annotations

import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from difflab.config import Data
from difflab.core.account import Account
from difflab.core.errors import DataError
from difflab.core.files import matches
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
from difflab.data.source import LICENCE, Source
from difflab.data.walk import ignored, inside_folder, refuse_split_files, walk
from difflab.data.weights import as_weights

CACHE_BYTES = 256 * 2**20  # limit of the encoded images that a reader keeps in memory


class RowGroups:
    """Maps a row to the bytes of its encoded image; None for an empty cell.

    One row group is read at a time. The last ones stay in memory, up to CACHE_BYTES. If rows are read in
    ascending order, every row group is read once. Raises DataError for a damaged row group.
    """

    def __init__(self, files: list[Path], counts: list[list[int]], column: str) -> None:
        """counts: the number of rows of each row group of each file. column: the column with the images."""
        self.files, self.counts, self.column = files, counts, column
        self.places: list[tuple[int, int]] = []  # of each row group: (position of its file, position in it)
        for file, groups in enumerate(counts):
            self.places += [(file, group) for group in range(len(groups))]
        self.starts = np.cumsum([0, *itertools.chain.from_iterable(counts)])
        self.cache: OrderedDict[int, list[bytes | None] | DataError] = OrderedDict()
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RowGroups, (self.files, self.counts, self.column)  # worker processes start with an empty cache

    def __getitem__(self, row: int) -> bytes | None:
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        with self.lock:
            if group not in self.cache:
                try:
                    self.cache[group] = self._load(group)
                except DataError as error:  # it is raised for every row of the group
                    self.cache[group] = error
                while len(self.cache) > 1 and sum(map(_size, self.cache.values())) > CACHE_BYTES:
                    self.cache.popitem(last=False)
            self.cache.move_to_end(group)
            images = self.cache[group]
        if isinstance(images, DataError):
            raise images
        return images[row - int(self.starts[group])]

    def _load(self, group: int) -> list[bytes | None]:
        file, group_of_file = self.places[group]
        expected = self.counts[file][group_of_file]
        with opened_parquet(self.files[file]) as handle:
            images = handle.read_row_group(group_of_file, columns=[self.column]).column(self.column)
            if pa.types.is_struct(images.type):
                images = pc.struct_field(images, "bytes")
            encoded = images.to_pylist()
        if len(encoded) != expected:
            raise DataError(
                f"{self.files[file]} is damaged: row group {group_of_file} has {len(encoded)} rows, not "
                f"{expected}"
            )
        return encoded


def _size(group: list[bytes | None] | DataError) -> int:
    """The number of bytes of the images of a row group."""
    return 0 if isinstance(group, DataError) else sum(len(encoded or b"") for encoded in group)


def open_parquet(data: Data, argument: str) -> Source:
    """Open parquet:PATH: a file, a folder, or a pattern such as data/train-*.parquet.

    The images are in the column `image`, or in the only column of the type that `datasets` uses for images (a
    struct with `bytes` and `path`). They are encoded images: binary, or a struct with the field `bytes`.

    Labels are optional. They are whole numbers or strings in the column data.label, by default `label`.
    Captions are optional. They are in the column data.caption_column, by default the first of `text`,
    `prompt` and `caption`.

    Raises DataError if nothing exists at PATH, for several splits, a damaged file, a missing column, and for
    images that cannot be read.
    """
    return source_of(list_parquet(data, argument), data)


def list_parquet(data: Data, argument: str | Path) -> Listing:
    """The rows of parquet files with their labels and captions. No image is opened.

    Raises the same DataError as `open_parquet`.
    """
    path = Path(argument).expanduser()
    account = Account()
    base, files = _files(path, data.source, account)
    columns = _columns(files[0], data)
    keys: list[str] = []
    labels: list[Any] = []
    texts: list[Any] = []
    rows: list[dict[str, Any]] = []
    weights: list[Any] = []
    counts = []
    for file in files:
        if _columns(file, data) != columns:
            raise DataError(
                f"{file} has other label or text columns than {files[0]}; use the same columns in both, or "
                "open each file separately"
            )
        with opened_parquet(file) as handle:
            groups = [handle.metadata.row_group(i).num_rows for i in range(handle.metadata.num_row_groups)]
            table = handle.read(columns=[name for name in (columns.label, columns.text) if name])
            labels += table.column(columns.label).to_pylist() if columns.label else []
            texts += table.column(columns.text).to_pylist() if columns.text else []
            rows += _origin_rows(handle)
            if columns.weight:
                weights += handle.read(columns=[columns.weight]).column(0).to_pylist()
        counts.append(groups)
        keys += [f"{file.relative_to(base).as_posix()}/{row}" for row in range(sum(groups))]
        if len(labels) not in (0, len(keys)) or len(texts) not in (0, len(keys)):
            raise DataError(
                f"{file} is damaged: its columns have different lengths; write or download it again"
            )
    if columns.label and all(label is None for label in labels) and data.label is None:
        labels = []
    if columns.text and all(text is None for text in texts) and data.caption_column is None:
        texts = []
    if columns.names:
        labels = named(labels, list(columns.names))

    def place(row: int) -> str:
        return f"{path}: image {keys[row]}"

    return Listing(
        data.source,
        str(path),
        keys,
        RowGroups(files, counts, columns.image),
        sound_labels(labels, place) or None,
        captions(texts, columns.text, place) if columns.text and texts else None,
        LICENCE,
        columns.others,
        account,
        rows if len(rows) == len(keys) else None,
        as_weights(weights, columns.weight, place) if columns.weight else None,
    )


def _origin_rows(handle: pq.ParquetFile) -> list[dict[str, Any]]:
    """The columns of each row that can declare an origin, see `difflab.data.declared`."""
    schema = handle.schema_arrow
    present = [name for name in COLUMNS if name in schema.names]
    names = [name for name in present if not pa.types.is_nested(schema.field(name).type)]
    if not names:
        return [{}] * handle.metadata.num_rows
    return handle.read(columns=names).to_pylist()


# ----------------------------------------------------------------------------------------- files and columns
@dataclass(frozen=True)
class _Columns:
    """The names of the columns of a file: images, labels, captions, weights, and all but the
    images.

    names: the class names of whole-number labels, if `datasets` wrote them into the file.
    """

    image: str
    label: str | None
    text: str | None
    weight: str | None
    names: tuple[str, ...] | None
    others: tuple[str, ...] = field(compare=False)


def _files(path: Path, source: str, account: Account) -> tuple[Path, list[Path]]:
    """The folder to which the keys of images are relative, and the files."""
    if path.is_file():
        return path.parent, [path]
    if matches(path):
        refuse_split_files(path.parent, [file.name for file in matches(path)])
        return path.parent, matches(path)
    if not path.exists():
        raise DataError(
            f"data.source={source}: {path} does not exist (current folder: {Path.cwd()}); give a parquet "
            "file, or a folder of parquet files"
        )
    base = inside_folder(path, source)
    inside = walk(base)
    keys = [key for key in inside if key.endswith(".parquet")]
    if not keys:
        raise DataError(f"{path} contains no .parquet file")
    refuse_split_files(base, keys)
    account.ignored = ignored(inside, keys)
    return base, [base / key for key in keys]


@contextmanager
def opened_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    """Open a parquet file. Its page checksums are verified.

    Every exception inside the block becomes a DataError that names the file.
    """
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as handle:
            yield handle
    except DataError:
        raise
    # a damaged file raises ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError, ...
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(
            f"{file} cannot be read as a parquet file ({reason}); write or download it again"
        ) from error


def _columns(file: Path, data: Data) -> _Columns:
    """The columns of a file.

    Raises DataError if the column of images is missing or of another type, and if a column that the config
    names is missing.
    """
    with opened_parquet(file) as handle:
        schema = handle.schema_arrow
        features = (schema.metadata or {}).get(b"huggingface", b"{}")
        types = dict(zip(schema.names, schema.types, strict=True))
    image = _image_column(types, file)
    label = label_column(data, list(types), str(file))
    text = chosen(data.caption_column, CAPTIONS, list(types), "data.caption_column", str(file))
    weight = chosen(data.weight, (), list(types), "data.weight", str(file))
    names = _class_names(features, label)
    return _Columns(image, label, text, weight, names, tuple(name for name in types if name != image))


def _image_column(types: dict[str, pa.DataType], file: Path) -> str:
    """The name of the column of images. Raises DataError if it is missing or of another type."""
    structs = [name for name, column_type in types.items() if pa.types.is_struct(column_type)]
    of_datasets = [name for name in structs if {"bytes", "path"} <= {part.name for part in types[name]}]
    image = "image" if "image" in types or len(of_datasets) != 1 else of_datasets[0]
    if image not in types:
        raise DataError(
            f"{file} has no column 'image' (its columns: {', '.join(types)}); rename the column with the "
            "images to 'image'"
        )
    image_type = types[image]
    if pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0:
        image_type = image_type.field("bytes").type
    if not (pa.types.is_binary(image_type) or pa.types.is_large_binary(image_type)):
        raise DataError(
            f"{file}: column '{image}' has the type {image_type}; it must contain encoded images as bytes, "
            "or a struct with a field 'bytes'"
        )
    return image


def _class_names(features: bytes, label: str | None) -> tuple[str, ...] | None:
    """The class names of whole-number labels in the metadata of `datasets`; None if there are none."""
    # Other tools write no such metadata, and the label may not be a ClassLabel.
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        names = json.loads(features)["info"]["features"][label]["names"] if label else None
        if names and isinstance(names, list) and all(isinstance(name, str) for name in names):
            return tuple(names)
    return None
