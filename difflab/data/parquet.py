"""Images in parquet files, as Hugging Face `datasets` and difflab write them; read with pyarrow alone."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from difflab.config import Data
from difflab.data.decode import Survey, decode, survey
from difflab.data.folder import LICENCE, walk
from difflab.data.sources import Source, labels_of_kept
from difflab.errors import DataError

CACHE_BYTES = 256 * 2**20  # of encoded images that a reader keeps


class RowGroups:
    """Row -> encoded bytes of its image, decoded one row group at a time; the last ones are kept up to CACHE_BYTES.

    Reading in ascending order decodes every row group once, whatever the size of the set.
    """

    def __init__(self, files: list[Path], counts: list[list[int]]) -> None:
        """counts: rows of each row group of each file."""
        self.files, self.counts = files, counts
        self.places = [(file, group) for file, groups in enumerate(counts) for group in range(len(groups))]
        self.starts = np.cumsum([0, *(count for groups in counts for count in groups)])
        self.cache: OrderedDict[int, list[bytes | None]] = OrderedDict()
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RowGroups, (self.files, self.counts)  # worker processes start with an empty cache

    def __getitem__(self, row: int) -> bytes | None:
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        with self.lock:
            if group not in self.cache:
                self.cache[group] = self._load(group)
                while len(self.cache) > 1 and sum(map(_size, self.cache.values())) > CACHE_BYTES:
                    self.cache.popitem(last=False)
            self.cache.move_to_end(group)
            return self.cache[group][row - int(self.starts[group])]

    def _load(self, group: int) -> list[bytes | None]:
        file, inside = self.places[group]
        with _opened(self.files[file]) as handle:
            images = handle.read_row_group(inside, columns=["image"]).column("image")
        return (pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images).to_pylist()


def _size(group: list[bytes | None]) -> int:
    return sum(len(encoded or b"") for encoded in group)


@dataclass(frozen=True)
class _ParquetReader:
    rows: RowGroups
    kept: list[int]
    keys: list[str]
    max_pixels: int
    size: int
    channels: int

    def __call__(self, index: int) -> np.ndarray:
        row = self.kept[index]
        return decode(self.rows[row] or b"", self.keys[row], self.max_pixels, self.size, self.channels)


def open_parquet(data: Data, argument: str) -> Source:
    """parquet:PATH, a file or a folder of .parquet files with a column `image` (struct with bytes, or bytes).

    Optional columns: `label` (or the one named by data.label; whole numbers or strings), `text` or `prompt`.
    Raises DataError: nothing there, a damaged file, a missing column, unreadable images.
    """
    path = Path(argument).expanduser()
    files = _files(path, data.source)
    base = path if path.is_dir() else path.parent
    columns = _columns(files[0], data)
    keys: list[str] = []
    labels: list[Any] = []
    texts: list[Any] = []
    counts = []
    for file in files:
        if _columns(file, data) != columns:
            raise DataError(f"{file} has other label or text columns than {files[0]}; make them alike, or open each on its own")
        with _opened(file) as handle:
            groups = [handle.metadata.row_group(i).num_rows for i in range(handle.metadata.num_row_groups)]
            table = handle.read(columns=[name for name in (columns.label, columns.text) if name])
        counts.append(groups)
        keys += [f"{file.relative_to(base).as_posix()}/{row}" for row in range(sum(groups))]
        labels += table.column(columns.label).to_pylist() if columns.label else []
        texts += table.column(columns.text).to_pylist() if columns.text else []
    rows = RowGroups(files, counts)
    found = survey(((key, rows[i]) for i, key in enumerate(keys)), data, str(path))
    return assemble(
        data,
        found,
        keys,
        columns.names_of(labels) if columns.label else None,
        texts if columns.text else None,
        LICENCE,
        _ParquetReader(rows, found.kept, keys, data.max_pixels, found.size, found.channels),
    )


# --------------------------------------------------------------------------------------------------- what is there
@dataclass(frozen=True)
class _Columns:
    label: str | None
    text: str | None
    names: tuple[str, ...] | None  # what whole-number labels stand for, where `datasets` wrote it down

    def names_of(self, labels: list[Any]) -> list[Any]:
        return named(labels, list(self.names)) if self.names else labels


def _files(path: Path, source: str) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"data.source={source}: {path} does not exist (looked from {Path.cwd()}); give a parquet file or a folder of them")
    files = [path / key for key in walk(path.resolve()) if key.endswith(".parquet")]
    if not files:
        raise DataError(f"{path} holds no file that ends in .parquet")
    return files


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(file) as handle:
            yield handle
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is no readable parquet file ({' '.join(str(error).split())}); write or download it again") from error


def _columns(file: Path, data: Data) -> _Columns:
    """The columns that matter. Raises DataError when `image` is missing or of another type, or data.label names none."""
    with _opened(file) as handle:
        schema = handle.schema_arrow
    if "image" not in schema.names:
        raise DataError(f"{file} has no column 'image' (it has: {', '.join(schema.names)}); rename the column with the images to 'image'")
    kind = schema.field("image").type
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"{file}: column 'image' is of type {kind}; it must hold encoded image bytes, or a struct with a field 'bytes'")
    if data.label is not None and data.label not in schema.names:
        raise DataError(f"{file} has no column '{data.label}' that data.label asks for (it has: {', '.join(schema.names)})")
    label = data.label or ("label" if "label" in schema.names else None)
    text = next((name for name in ("text", "prompt") if name in schema.names), None)
    names = None
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = features["info"]["features"][label]["names"] if label else None
    except (ValueError, KeyError, TypeError):
        pass  # written by another tool than `datasets`, or no ClassLabel
    return _Columns(label, text, tuple(names) if isinstance(names, list) else None)


# ------------------------------------------------------------------------------------------- shared with hub.py
def named(labels: list[Any], names: list[str]) -> list[Any]:
    """Class names in place of whole numbers; what is out of range (`datasets` writes -1 for 'none') becomes None."""
    return [names[label] if isinstance(label, int) and 0 <= label < len(names) else None for label in labels]


def assemble(
    data: Data, found: Survey, keys: list[str], labels: list[Any] | None, texts: list[Any] | None, licence: str, read: Callable[[int], np.ndarray]
) -> Source:
    """A Source from whole columns, of which the rows found.kept are usable. Raises DataError for missing labels or texts."""
    kept = found.kept
    encoded, classes = labels_of_kept(labels, kept, data.source)
    prompts = None if texts is None else [texts[i] for i in kept]
    if prompts is not None and not all(isinstance(text, str) for text in prompts):
        first = next(keys[i] for i in kept if not isinstance(texts[i], str))  # type: ignore[index]
        raise DataError(f"{data.source}: image {first} has no text; give every image one, or remove the column")
    return Source(
        name=data.source,
        size=found.size,
        channels=found.channels,
        labels=encoded,
        classes=classes,
        prompts=prompts,
        groups=None,
        attributes={},
        keys=[keys[i] for i in kept],
        licence=licence,
        account=found.account,
        read=read,
    )
