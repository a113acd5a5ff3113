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
SIDECARS = (".txt", ".caption")  # suffixes of files that hold the caption of the image of the same name
EXAMPLE = '{"file_name": "a.png", "text": "a cat"}'


@dataclass(frozen=True)
class Table:
    """The rows of a metadata file, and the line or row number of each."""

    path: Path
    rows: list[dict[str, Any]]
    places: list[str]

    def where(self, row: int) -> str:
        return f"{self.path}, {self.places[row]}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that have a value in at least one row."""
        return tuple(
            dict.fromkeys(name for row in self.rows for name, value in row.items() if value is not None)
        )

    def column(self, name: str) -> list[Any]:
        """The values of one column, one per row. Raises DataError for a row without a value."""
        return complete([row.get(name) for row in self.rows], name, self.where)

    def labels(self, name: str) -> list[Any]:
        """One class per row: cells of CSV are text, and whole numbers where all of them are.

        Raises DataError for a row that has none.
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
    found = [key for key in everywhere if "/" not in key]
    deeper = [key for key in everywhere if "/" in key]
    if deeper and not found:
        raise DataError(
            f"{root / deeper[0]} is not read: metadata lies at the top of the folder; give "
            f"{root / PurePosixPath(deeper[0]).parent}, or move it up"
        )
    if len(found) > 1:
        raise DataError(f"{root} holds {' and '.join(found)}; keep one of them")
    return found[0] if found else None


def read_table(path: Path) -> Table:
    """The rows of a metadata file, each with a file_name. Raises DataError that names the line."""
    readers = {".jsonl": _from_jsonl, ".csv": _from_csv, ".parquet": _from_parquet}
    table = readers[path.suffix](path)
    if not table.rows:
        raise DataError(f"{path} lists no image; write one line per image: {EXAMPLE}")
    for i, row in enumerate(table.rows):
        if not isinstance(row.get("file_name"), str) or not row["file_name"]:
            raise DataError(f"{table.where(i)}: no 'file_name'; write for example {EXAMPLE}")
        sound(row["file_name"], table.where(i))
    return table


def _from_jsonl(path: Path) -> Table:
    rows, places = [], []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, strict=False)  # texts may hold control characters as they are
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: not valid JSON ({error}); one object per line is wanted"
            ) from error
        rows.append(row if isinstance(row, dict) else {})
        places.append(f"line {number}")
    return Table(path, rows, places)


def _from_csv(path: Path) -> Table:
    """Cells are text; an empty one is no value."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    cells, places = [], []
    try:
        for row in reader:
            if row:
                cells.append(row)
                places.append(f"line {reader.line_num}")
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not valid CSV ({error}); put texts with commas or line ends in "
            "double quotes"
        ) from error
    if not cells:
        return Table(path, [], [])
    header, *rows = cells
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}, {places[0]}: column '{twice}' is there twice; rename one")
    uneven = next((i for i, row in enumerate(rows) if len(row) != len(header)), None)
    if uneven is not None:
        raise DataError(
            f"{path}, {places[uneven + 1]}: {len(rows[uneven])} cells where the first line has "
            f"{len(header)}; put texts with commas in double quotes"
        )
    return Table(
        path,
        [{name: cell or None for name, cell in zip(header, row, strict=True)} for row in rows],
        places[1:],
    )


def _numbers(cells: list[str]) -> list[Any]:
    """Whole numbers where all cells are such, written as numbers are: 7, not 007."""
    if all(len(cell) < 19 and cell.isascii() and cell.isdigit() and str(int(cell)) == cell for cell in cells):
        return [int(cell) for cell in cells]
    return list(cells)


def _from_parquet(path: Path) -> Table:
    with opened_parquet(path) as handle:
        rows = handle.read().to_pylist()
    return Table(path, rows, [f"row {i}" for i in range(len(rows))])


# ------------------------------------------------------------------------------------------------- sidecars
def sidecars_of(files: Iterable[str], images: Iterable[str]) -> dict[str, dict[str, str]]:
    """Suffix -> image -> the text file beside it that has its name, for the suffixes of SIDECARS that are
    there.
    """
    texts: dict[str, dict[str, str]] = {suffix: {} for suffix in SIDECARS}
    for key in files:
        if suffix_of(key) in texts:
            texts[suffix_of(key)][str(PurePosixPath(key).with_suffix(""))] = key
    found: dict[str, dict[str, str]] = {suffix: {} for suffix in SIDECARS}
    for image in images:
        stem = str(PurePosixPath(image).with_suffix(""))
        for suffix, own in texts.items():
            if stem in own:
                found[suffix][image] = own[stem]
    return {suffix: own for suffix, own in found.items() if own}


def read_sidecars(root: Path, sidecars: dict[str, str], images: Iterable[str], suffix: str) -> list[str]:
    """The caption of each image: the whole text of its file, white space at the ends cut.

    Raises DataError for an image without one.
    """
    out = []
    for image in images:
        if image not in sidecars:
            wanted = PurePosixPath(image).with_suffix(suffix)
            raise DataError(
                f"{root / image} has no {wanted.name} beside it, which others have; write one for every "
                "image, or for none"
            )
        out.append(read_text(root / sidecars[image]).strip())
    return out
