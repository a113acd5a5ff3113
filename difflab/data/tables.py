"""Read captions and labels from metadata.jsonl, .csv or .parquet, and from text files beside the images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from difflab.core.errors import DataError
from difflab.core.files import read_lines, read_text, sound
from difflab.data.listing import complete
from difflab.data.parquet import opened_parquet
from difflab.data.walk import suffix_of

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SIDECARS = (".txt", ".caption")  # suffixes of text files with the caption of the image of the same name
EXAMPLE = '{"file_name": "a.png", "text": "a cat"}'


@dataclass(frozen=True)
class Table:
    """The rows of a metadata file, and the place of each in it, for example "line 3"."""

    path: Path
    rows: list[dict[str, Any]]
    places: list[str]

    def where(self, row: int) -> str:
        """The file and the place of a row, for error messages."""
        return f"{self.path}, {self.places[row]}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that have a value in at least one row."""
        names: dict[str, None] = {}
        for row in self.rows:
            names.update((name, None) for name, value in row.items() if value is not None)
        return tuple(names)

    def column(self, name: str) -> list[Any]:
        """The values of one column, one per row. Raises DataError for a row without a value."""
        return complete([row.get(name) for row in self.rows], name, self.where)

    def labels(self, name: str) -> list[Any]:
        """One class per row. Cells of a CSV file become whole numbers if all of them are such.

        Raises DataError for a row without a label.
        """
        values = self.column(name)
        for i, value in enumerate(values):
            if isinstance(value, str):
                sound(value, self.where(i))
        return _numbers(values) if self.path.suffix == ".csv" else values


def metadata_of(root: Path, files: Iterable[str]) -> str | None:
    """The metadata file at the top of a folder; None if there is none.

    Raises DataError for several files, and if the only one is in a subfolder.
    """
    everywhere = [key for key in files if PurePosixPath(key).name in NAMES]
    top = [key for key in everywhere if "/" not in key]
    deeper = [key for key in everywhere if "/" in key]
    if deeper and not top:
        raise DataError(
            f"{root / deeper[0]} is not read: the metadata file must be at the top of the folder; give "
            f"{root / PurePosixPath(deeper[0]).parent}, or move the file up"
        )
    if len(top) > 1:
        raise DataError(f"{root} contains {' and '.join(top)}; keep one of them")
    return top[0] if top else None


def read_table(path: Path) -> Table:
    """The rows of a metadata file, each with a file_name. Raises DataError that names the line."""
    readers = {".jsonl": _from_jsonl, ".csv": _from_csv, ".parquet": _from_parquet}
    table = readers[path.suffix](path)
    if not table.rows:
        raise DataError(f"{path} lists no image; write one line per image, for example {EXAMPLE}")
    for i, row in enumerate(table.rows):
        if not isinstance(row.get("file_name"), str) or not row["file_name"]:
            raise DataError(f"{table.where(i)} has no 'file_name'; write for example {EXAMPLE}")
        sound(row["file_name"], table.where(i))
    return table


def _from_jsonl(path: Path) -> Table:
    rows, places = [], []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, strict=False)  # control characters in texts are allowed
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: not valid JSON ({error}); write one JSON object per line"
            ) from error
        rows.append(row if isinstance(row, dict) else {})
        places.append(f"line {number}")
    return Table(path, rows, places)


def _from_csv(path: Path) -> Table:
    """The rows of a CSV file. Cells are strings; an empty cell becomes None."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    cells, places = [], []
    try:
        for row in reader:
            if row:
                cells.append(row)
                places.append(f"line {reader.line_num}")
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not valid CSV ({error}); write texts with commas or line "
            "breaks in double quotes"
        ) from error
    if not cells:
        return Table(path, [], [])
    header, *rows = cells
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}, {places[0]}: there are two columns '{twice}'; rename one of them")
    uneven = next((i for i, row in enumerate(rows) if len(row) != len(header)), None)
    if uneven is not None:
        raise DataError(
            f"{path}, {places[uneven + 1]} has {len(rows[uneven])} cells, but the first line has "
            f"{len(header)}; write texts with commas in double quotes"
        )
    return Table(
        path,
        [{name: cell or None for name, cell in zip(header, row, strict=True)} for row in rows],
        places[1:],
    )


def _numbers(cells: list[str]) -> list[Any]:
    """The cells as whole numbers if all of them are such, else as strings. 007 is not a whole number."""
    if all(len(cell) < 19 and cell.isascii() and cell.isdigit() and str(int(cell)) == cell for cell in cells):
        return [int(cell) for cell in cells]
    return list(cells)


def _from_parquet(path: Path) -> Table:
    with opened_parquet(path) as handle:
        rows = handle.read().to_pylist()
    return Table(path, rows, [f"row {i}" for i in range(len(rows))])


# ------------------------------------------------------------------------------------------------- sidecars
def sidecars_of(files: Iterable[str], images: Iterable[str]) -> dict[str, dict[str, str]]:
    """Text files beside images: suffix -> image -> the text file with the same name.

    Only the suffixes of SIDECARS that occur are included.
    """
    texts: dict[str, dict[str, str]] = {suffix: {} for suffix in SIDECARS}
    for key in files:
        if suffix_of(key) in texts:
            texts[suffix_of(key)][str(PurePosixPath(key).with_suffix(""))] = key
    sidecars: dict[str, dict[str, str]] = {suffix: {} for suffix in SIDECARS}
    for image in images:
        stem = str(PurePosixPath(image).with_suffix(""))
        for suffix, by_stem in texts.items():
            if stem in by_stem:
                sidecars[suffix][image] = by_stem[stem]
    return {suffix: by_image for suffix, by_image in sidecars.items() if by_image}


def read_sidecars(root: Path, sidecars: dict[str, str], images: Iterable[str], suffix: str) -> list[str]:
    """The caption of each image: the text of its file, without white space at both ends.

    Raises DataError for an image without such a file.
    """
    out = []
    for image in images:
        if image not in sidecars:
            wanted = PurePosixPath(image).with_suffix(suffix)
            raise DataError(
                f"{root / image} has no {wanted.name} beside it, but other images have such a file; write "
                "one for every image, or for none"
            )
        out.append(read_text(root / sidecars[image]).strip())
    return out
