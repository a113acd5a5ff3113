"""The listing of a set of images: names, sizes in bytes, captions and labels, without a look into any image.

A run keeps the listing of the set that it was made from, so that the same command on changed data is noticed. Built-in sets and
sets of the hub have none. What it cannot see is an image replaced by another of exactly as many bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from difflab.config import Data
from difflab.data.decode import SUFFIXES
from difflab.data.files import write_bytes
from difflab.data.folder import METADATA, walk
from difflab.errors import reading

FILE = "listing.json.gz"

Listing = dict[str, list[Any]]
"""Key of an image -> [size in bytes or None, digest of what is said about it or '']."""


def listing(data: Data) -> Listing | None:
    """What lies at `data.source` now; None where nothing does, and for sets that are no files of the user. Raises DataError."""
    kind, _, argument = data.source.partition(":")
    path = Path(argument).expanduser()
    if kind not in READERS or not argument or not path.exists():
        return None
    with reading(f"data.source={data.source}"):
        return READERS[kind](path.resolve())


def digest(found: Listing) -> str:
    return _digest(found)


def keep(folder: Path, found: Listing) -> None:
    """Write the listing into the folder of a real set."""
    write_bytes(folder / FILE, gzip.compress(json.dumps(found, sort_keys=True).encode(), 1, mtime=0))


def kept(folder: Path) -> Listing | None:
    """The listing that lies there; None where it does not, or is damaged."""
    try:
        found = json.loads(gzip.decompress((folder / FILE).read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    return found if isinstance(found, dict) and all(isinstance(row, list) and len(row) == 2 for row in found.values()) else None


def changes(before: Listing, now: Listing) -> list[str]:
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
    text = thing if isinstance(thing, bytes) else json.dumps(thing, sort_keys=True, default=str).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _folder(root: Path) -> Listing:
    """Images with their caption files; with a metadata.jsonl what that lists, a digest of each line."""
    if (root / METADATA).is_file():
        return dict(_lines(root))
    files = walk(root)
    known = set(files)

    def caption(key: str) -> str:
        text = PurePosixPath(key).with_suffix(".txt").as_posix()
        return _digest((root / text).read_bytes()) if text in known else ""

    return {key: [_size(root / key), caption(key)] for key in files if PurePosixPath(key).suffix.lower() in SUFFIXES}


def _lines(root: Path) -> Iterable[tuple[str, list[Any]]]:
    for number, line in enumerate((root / METADATA).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = PurePosixPath(row.pop("file_name")).as_posix()
            yield key, [_size(root / key), _digest(row)]
        except (ValueError, KeyError, TypeError, AttributeError):  # the opener says what is wrong with it
            yield f"{METADATA}, line {number}", [None, _digest(line)]


def _parquet(path: Path) -> Listing:
    """Every row with a digest of its columns but the images, and every file with its size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: Listing = {}
    base = path if path.is_dir() else path.parent
    for file in [path] if path.is_file() else [path / key for key in walk(path) if key.endswith(".parquet")]:
        name = file.relative_to(base).as_posix()
        found[name] = [_size(file), ""]
        with pq.ParquetFile(file) as handle:
            plain = [
                f.name
                for f in handle.schema_arrow
                if not (pa.types.is_nested(f.type) or pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type))
            ]
            rows = handle.read(columns=plain).to_pylist() if plain else []
        found |= {f"{name}/{i}": [None, _digest(row)] for i, row in enumerate(rows)}
    return found


READERS = {"imagefolder": _folder, "parquet": _parquet}
