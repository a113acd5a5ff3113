"""hashes.json: the SHA-256 of every result file of one generation, or of the real set.

Weights, images and training sets have hashes of their own. This list also covers what these do not: footers
of parquet files, features, records, and configs of a model. metrics.jsonl is not listed, because measures can
be added to it later. `verify` compares its rows with metrics.jsonl of the run instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from difflab.core import fence
from difflab.core.files import read_json, write_json
from difflab.core.hashing import file_hash
from difflab.runs.folder import STAGE_TABLE

FILE = "hashes.json"
GROWS = "metrics.jsonl"
RESULTS = tuple(dict.fromkeys(name for stage in STAGE_TABLE for name in stage.files if name != GROWS))
"""The files and folders of a generation that never change once they have their final names."""
EVERYTHING = (".",)
"""All files of a folder, as in the real set."""


def write_hashes(folder: Path, names: tuple[str, ...] = RESULTS) -> None:
    """Add the files of `folder` that hashes.json does not list, and drop those that no longer exist.

    Files that are listed are not read again. Temporary files are left out.

    Args:
        names: files and folders below `folder`.
    """
    known = _known(folder)
    present = [path for name in names for path in _files(folder / name)]
    wanted = {
        name: known.get(name) or file_hash(path)
        for path in present
        if (name := path.relative_to(folder).as_posix()) != FILE and not path.name.startswith(".")
    }
    if wanted != known:
        write_json(folder / FILE, wanted)


def forget_hashes(folder: Path) -> None:
    """Delete hashes.json, because a stage of this generation is about to run again.

    Raises StoreError if another process has taken over the run.
    """
    fence.check(folder)
    (folder / FILE).unlink(missing_ok=True)


def changed(folder: Path, whole: bool = True) -> Iterator[tuple[Path, str]]:
    """Yield the path of each listed file that is missing or has other bytes, with a sentence.

    Runs of versions without hashes.json have no list and no fault. Raises StoreError if the list is damaged.

    Args:
        whole: a missing file is a fault.
    """
    for name, wanted in _known(folder).items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            yield path, f"{folder / FILE} names a file outside its folder: {name!r}"
        elif not path.is_file():
            if whole:
                yield path, f"{path}, which {FILE} lists, is missing"
        elif file_hash(path) != wanted:
            yield path, f"{path} differs from its hash in {FILE}"


def _known(folder: Path) -> dict[str, str]:
    path = folder / FILE
    return read_json(path, dict[str, str]) if path.exists() else {}


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(child for child in path.rglob("*") if child.is_file())
