"""What a run remembers of the set that it was made from: names, sizes in bytes, captions and labels, without
a look into any image.

The same command on changed data is noticed by it. Built-in sets and sets of the hub have none. What it cannot
see is an image replaced by another of exactly as many bytes.
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
"""Key of an image -> [size in bytes or None, digest of what is said about it or '']."""

LISTS = {"imagefolder": list_folder, "parquet": list_parquet}


def record(data: Data) -> Record | None:
    """What lies at `data.source` now; None where nothing does, and for sets that are no files of the user.

    Raises DataError where it is unsound.
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
    said = zip(listing.labels or nothing, listing.prompts or nothing, strict=True)
    digests = ["" if label is None and prompt is None else _digest([label, prompt]) for label, prompt in said]
    return files | {key: [size, text] for key, size, text in zip(listing.keys, sizes, digests, strict=True)}


def digest(found: Record) -> str:
    """Hash of a record, sixteen hex digits."""
    return _digest(found)


def keep(folder: Path, found: Record) -> None:
    """Write the record into the folder of a real set."""
    write_bytes(folder / FILE, gzip.compress(json.dumps(found, sort_keys=True).encode(), 1, mtime=0))


def kept(folder: Path) -> Record | None:
    """The record that lies there; None where it does not, or is damaged."""
    try:
        found = json.loads(gzip.decompress((folder / FILE).read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    return (
        found
        if isinstance(found, dict) and all(isinstance(row, list) and len(row) == 2 for row in found.values())
        else None
    )


def changes(before: Record, now: Record) -> list[str]:
    """What is not as it was, in words, by the kind of change.

    >>> changes({"a.png": [10, ""], "b.png": [10, "x"]}, {"b.png": [10, "y"], "c.png": [12, ""]})
    ['1 added (c.png)', '1 removed (a.png)', '1 with another caption or label (b.png)']
    """
    both = [key for key in before if key in now]
    kinds = {
        "added": [key for key in now if key not in before],
        "removed": [key for key in before if key not in now],
        "of another size": [key for key in both if before[key][0] != now[key][0]],
        "with another caption or label": [key for key in both if before[key][1] != now[key][1]],
    }
    return [f"{len(keys):,} {kind} ({_named(sorted(keys))})" for kind, keys in kinds.items() if keys]


def _named(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _digest(thing: Any) -> str:
    return hashlib.sha256(json.dumps(thing, sort_keys=True, default=str).encode()).hexdigest()[:16]
