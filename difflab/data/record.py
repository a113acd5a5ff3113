"""The record of a user's image set: key, size in bytes, caption, label and weight of each image.

No image is opened. A run stores this record, so that it notices when the same command is given with changed
data. Built-in sets and hub sets have no record. It does not notice an image that is replaced by another one
of the same size in bytes.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

from difflab.config import Data
from difflab.core.errors import reading
from difflab.core.files import write_bytes
from difflab.data.imagefolder import list_folder
from difflab.data.parquet import RowGroups, list_parquet

FILE = "listing.json.gz"

Record = dict[str, list[Any]]
"""Key of an image -> [its size in bytes or None, the digest of its label and caption or ''].

Images in parquet files have no size of their own. There the size of each file is recorded, under its name.
"""

LISTS = {"imagefolder": list_folder, "parquet": list_parquet}


def record(data: Data) -> Record | None:
    """The record of the files at `data.source`; None if nothing exists there, and for built-in and hub sets.

    Raises DataError if the set cannot be listed.
    """
    kind, _, argument = data.source.partition(":")
    if kind not in LISTS or not argument:
        return None
    if not Path(argument).expanduser().exists() and not glob.glob(str(Path(argument).expanduser())):
        return None
    with reading(f"data.source={data.source}"):
        listing = LISTS[kind](data, argument)
        if isinstance(listing.items, RowGroups):
            files: Record = {file.name: [file.stat().st_size, ""] for file in listing.items.files}
            sizes: list[int | None] = [None] * len(listing.keys)
        else:
            files, sizes = {}, [Path(listing.items[i]).stat().st_size for i in range(len(listing.keys))]  # type: ignore[arg-type]
    nothing = [None] * len(listing.keys)
    columns = [listing.labels or nothing, listing.prompts or nothing]
    if listing.weights is not None:
        columns.append(listing.weights)
    described = [list(values) for values in zip(*columns, strict=True)]
    digests = [_digest(values) if values != [None, None] else "" for values in described]
    return files | {key: [size, text] for key, size, text in zip(listing.keys, sizes, digests, strict=True)}


def digest(entries: Record) -> str:
    """The hash of a record, sixteen hex digits."""
    return _digest(entries)


def keep(folder: Path, entries: Record) -> None:
    """Write the record into the folder of a real set."""
    write_bytes(folder / FILE, gzip.compress(json.dumps(entries, sort_keys=True).encode(), 1, mtime=0))


def kept(folder: Path) -> Record | None:
    """The record in the folder of a real set; None if it is missing or damaged."""
    try:
        entries = json.loads(gzip.decompress((folder / FILE).read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    if not isinstance(entries, dict):
        return None
    valid = all(isinstance(entry, list) and len(entry) == 2 for entry in entries.values())
    return entries if valid else None


def changes(before: Record, now: Record) -> list[str]:
    """The differences between two records, one phrase for each kind of change.

    >>> changes({"a.png": [10, ""], "b.png": [10, "x"]}, {"b.png": [10, "y"], "c.png": [12, ""]})
    ['1 added (c.png)', '1 removed (a.png)', '1 with another caption, label or weight (b.png)']
    """
    both = [key for key in before if key in now]
    kinds = {
        "added": [key for key in now if key not in before],
        "removed": [key for key in before if key not in now],
        "of another size": [key for key in both if before[key][0] != now[key][0]],
        "with another caption, label or weight": [key for key in both if before[key][1] != now[key][1]],
    }
    return [f"{len(keys):,} {kind} ({_named(sorted(keys))})" for kind, keys in kinds.items() if keys]


def _named(keys: list[str]) -> str:
    """The first three keys."""
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
