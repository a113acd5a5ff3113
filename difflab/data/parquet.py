"""Images in parquet files, as Hugging Face `datasets` and difflab write them; read with pyarrow alone."""

from __future__ import annotations

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

CACHE_BYTES = 256 * 2**20  # of encoded images that a reader keeps


class RowGroups:
    """Row -> encoded bytes of its image, decoded one row group at a time; the last ones are kept up to
    CACHE_BYTES.

    Reading in ascending order decodes every row group once, whatever the size of the set. Raises DataError
    for a damaged one.
    """

    def __init__(self, files: list[Path], counts: list[list[int]], column: str) -> None:
        """counts: rows of each row group of each file. column: that of the images."""
        self.files, self.counts, self.column = files, counts, column
        self.places = [(file, group) for file, groups in enumerate(counts) for group in range(len(groups))]
        self.starts = np.cumsum([0, *(count for groups in counts for count in groups)])
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
                except DataError as error:  # of all its rows, each of which may be left out
                    self.cache[group] = error
                while len(self.cache) > 1 and sum(map(_size, self.cache.values())) > CACHE_BYTES:
                    self.cache.popitem(last=False)
            self.cache.move_to_end(group)
            held = self.cache[group]
        if isinstance(held, DataError):
            raise held
        return held[row - int(self.starts[group])]

    def _load(self, group: int) -> list[bytes | None]:
        file, inside = self.places[group]
        with opened_parquet(self.files[file]) as handle:
            images = handle.read_row_group(inside, columns=[self.column]).column(self.column)
            encoded = (
                pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images
            ).to_pylist()
        if len(encoded) != self.counts[file][inside]:
            raise DataError(
                f"{self.files[file]} is damaged: row group {inside} has {len(encoded)} rows of "
                f"{self.counts[file][inside]}"
            )
        return encoded


def _size(group: list[bytes | None] | DataError) -> int:
    return 0 if isinstance(group, DataError) else sum(len(encoded or b"") for encoded in group)


def open_parquet(data: Data, argument: str) -> Source:
    """parquet:PATH, a file, a folder, or a pattern such as data/train-*.parquet, with a column of images
    (struct with bytes, or bytes).

    The images are in the column `image`, or in the only one that is made as `datasets` makes them. Optional
    columns: `label` (or the one named by data.label; whole numbers or strings), and for captions `text`,
    `prompt`, `caption` or the one named by data.caption_column. Raises DataError: nothing there, several
    splits, a damaged file, a missing column, unreadable images.
    """
    return source_of(list_parquet(data, argument), data)


def list_parquet(data: Data, argument: str | Path) -> Listing:
    """The rows of parquet files with their labels and captions, no image opened yet.

    Raises DataError as `open_parquet`.
    """
    path = Path(argument).expanduser()
    account = Account()
    base, files = _files(path, data.source, account)
    columns = _columns(files[0], data)
    keys: list[str] = []
    labels: list[Any] = []
    texts: list[Any] = []
    counts = []
    for file in files:
        if _columns(file, data) != columns:
            raise DataError(
                f"{file} has other label or text columns than {files[0]}; make them alike, or open each on "
                "its own"
            )
        with opened_parquet(file) as handle:
            groups = [handle.metadata.row_group(i).num_rows for i in range(handle.metadata.num_row_groups)]
            table = handle.read(columns=[name for name in (columns.label, columns.text) if name])
            labels += table.column(columns.label).to_pylist() if columns.label else []
            texts += table.column(columns.text).to_pylist() if columns.text else []
        counts.append(groups)
        keys += [f"{file.relative_to(base).as_posix()}/{row}" for row in range(sum(groups))]
        if len(labels) not in (0, len(keys)) or len(texts) not in (0, len(keys)):
            raise DataError(f"{file} is damaged: its columns differ in length; write or download it again")
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
    )


# -------------------------------------------------------------------------------------------- what is there
@dataclass(frozen=True)
class _Columns:
    image: str
    label: str | None
    text: str | None
    names: tuple[str, ...] | None  # what whole-number labels stand for, where `datasets` wrote it down
    others: tuple[str, ...] = field(compare=False)


def _files(path: Path, source: str, account: Account) -> tuple[Path, list[Path]]:
    """(the folder that names are relative to, the files)."""
    if path.is_file():
        return path.parent, [path]
    if matches(path):
        refuse_split_files(path.parent, [file.name for file in matches(path)])
        return path.parent, matches(path)
    if not path.exists():
        raise DataError(
            f"data.source={source}: {path} does not exist (looked from {Path.cwd()}); give a parquet file or "
            "a folder of them"
        )
    base = inside_folder(path, source)
    inside = walk(base)
    keys = [key for key in inside if key.endswith(".parquet")]
    if not keys:
        raise DataError(f"{path} holds no file that ends in .parquet")
    refuse_split_files(base, keys)
    account.ignored = ignored(inside, keys)
    return base, [base / key for key in keys]


@contextmanager
def opened_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    """The file, its page checksums verified.

    Whatever goes wrong while it is open is a DataError that names it.
    """
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as handle:
            yield handle
    except DataError:
        raise
    # of a damaged file: ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError, ...
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(
            f"{file} is no readable parquet file ({reason}); write or download it again"
        ) from error


def _columns(file: Path, data: Data) -> _Columns:
    """The columns that matter.

    Raises DataError when the images are missing or of another type, or a field of the config names none.
    """
    with opened_parquet(file) as handle:
        schema = handle.schema_arrow
        own, kinds = (
            (handle.schema_arrow.metadata or {}).get(b"huggingface", b"{}"),
            dict(zip(schema.names, schema.types, strict=True)),
        )
    made = [
        name
        for name, kind in kinds.items()
        if pa.types.is_struct(kind) and {"bytes", "path"} <= {part.name for part in kind}
    ]
    image = "image" if "image" in kinds or len(made) != 1 else made[0]
    if image not in kinds:
        raise DataError(
            f"{file} has no column 'image' (it has: {', '.join(kinds)}); rename the column with the images "
            "to 'image'"
        )
    kind = kinds[image]
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(
            f"{file}: column '{image}' is of type {kind}; it must hold encoded image bytes, or a struct with "
            "a field 'bytes'"
        )
    label = label_column(data, list(kinds), str(file))
    text = chosen(data.caption_column, CAPTIONS, list(kinds), "data.caption_column", str(file))
    names = None
    with suppress(
        ValueError, KeyError, TypeError, RecursionError
    ):  # written by another tool than `datasets`, or no ClassLabel
        names = json.loads(own)["info"]["features"][label]["names"] if label else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = None
    return _Columns(
        image, label, text, tuple(names) if names else None, tuple(name for name in kinds if name != image)
    )
