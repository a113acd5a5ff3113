"""Images in a folder: class folders, a metadata.jsonl, or a flat heap. Nothing outside the folder is ever read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from difflab.config import Data
from difflab.data.decode import FOREIGN_SUFFIXES, SUFFIXES, decode, survey
from difflab.data.sources import Source, labels_of_kept, no_label_choice
from difflab.errors import DataError

METADATA = "metadata.jsonl"
SPLITS = frozenset({"train", "test", "val", "valid", "validation"})
LICENCE = "unknown (your own images)"


@dataclass(frozen=True)
class _FileReader:
    root: Path
    keys: list[str]
    max_pixels: int
    size: int
    channels: int

    def __call__(self, index: int) -> np.ndarray:
        key = self.keys[index]
        return decode(self.root / key, f"{self.root / key}", self.max_pixels, self.size, self.channels)


@dataclass(frozen=True)
class _Listing:
    """What is said about the images before any is opened."""

    keys: list[str]
    labels: list[Any] | None
    prompts: list[str] | None
    unlisted: list[str]


def open_folder(data: Data, argument: str) -> Source:
    """imagefolder:PATH. Class folders (the class is the first level), metadata.jsonl (file_name, text, label), or no labels.

    Images are cropped to their central square and resized to data.image_size, which may be left out when all are squares of
    one size. Raises DataError: nothing there, an empty class folder, a link or file_name that leads out of the folder, a bad
    line of metadata.jsonl, unreadable images (data.bad_images=skip leaves those out).
    """
    root = inside_folder(argument, data.source)
    images = [path for path in walk(root) if is_image(path)]
    listing = _from_metadata(root, images, data) if (root / METADATA).is_file() else _from_folders(root, images, data)
    found = survey(((key, root / key) for key in listing.keys), data, str(root))
    found.account.found += len(listing.unlisted)
    for key in listing.unlisted:
        found.account.add("unlisted", key)
    keys = [listing.keys[i] for i in found.kept]
    labels, classes = labels_of_kept(listing.labels, found.kept, str(root))
    return Source(
        name=data.source,
        size=found.size,
        channels=found.channels,
        labels=labels,
        classes=classes,
        prompts=None if listing.prompts is None else [listing.prompts[i] for i in found.kept],
        groups=None,
        attributes={},
        keys=keys,
        licence=LICENCE,
        account=found.account,
        read=_FileReader(root, keys, data.max_pixels, found.size, found.channels),
    )


# ------------------------------------------------------------------------------------------------- what is there
def inside_folder(argument: str, source: str) -> Path:
    """The resolved folder. Raises DataError when it is not one."""
    path = Path(argument).expanduser()
    if not path.is_dir():
        raise DataError(
            f"data.source={source}: {path} {'is not a folder' if path.exists() else 'does not exist'} (looked from {Path.cwd()}); give the path of a folder"
        )
    return path.resolve()


def walk(root: Path) -> list[str]:
    """All files below `root` as sorted relative paths with '/', without hidden ones. Raises DataError at a link that leads out.

    Links to folders are not followed, not even inside: their images would count twice.
    """
    found, todo = [], [root]
    while todo:
        folder = todo.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise DataError(f"{folder} cannot be listed ({error.strerror}); make it readable") from error
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            path = Path(entry.path)
            if entry.is_symlink():
                check_inside(path, root)
                if entry.is_dir():
                    raise DataError(f"{path} is a symbolic link to a folder; put the folder itself in its place")
            if entry.is_dir(follow_symlinks=False):
                todo.append(path)
            elif entry.is_symlink() or entry.is_file():  # a pipe or device would block whoever opens it
                found.append(path.relative_to(root).as_posix())
    return sorted(found)


def check_inside(path: Path, root: Path) -> None:
    """Raise DataError when `path`, all links followed, lies outside `root`."""
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(root):
        raise DataError(f"{path} is or lies behind a symbolic link that leads out of {root} (to {target}); copy the file there instead")


def is_image(key: str) -> bool:
    """Whether a file is to be read, by its suffix. Raises DataError for images in formats that are not read."""
    suffix = PurePosixPath(key).suffix.lower()
    if suffix in FOREIGN_SUFFIXES:
        raise DataError(f"{key}: images of type {suffix} are not read; convert it to PNG, or remove it")
    return suffix in SUFFIXES


# ------------------------------------------------------------------------------------------ labels from folder names
def _from_folders(root: Path, images: list[str], data: Data) -> _Listing:
    no_label_choice(data)
    if (root / "metadata.csv").is_file():
        raise DataError(f'{root}/metadata.csv is not read; write {METADATA} instead, one line per image: {{"file_name": "a.png", "text": "a cat"}}')
    if not images:
        raise DataError(f"{root} holds no image; images end in {', '.join(sorted(SUFFIXES))}")
    flat = [key for key in images if "/" not in key]
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".") and entry.name != "__MACOSX")
    if flat and len(flat) == len(images):
        return _Listing(images, None, None, [])
    if flat:
        raise DataError(f"{root} holds images beside class folders, for example {flat[0]}; move them into a class folder or away")
    if set(map(str.lower, folders)) <= SPLITS:
        raise DataError(
            f"{root}: {', '.join(folders)} look like splits, not classes; give one of them, for example data.source=imagefolder:{root / folders[0]}"
        )
    labels = [key.partition("/")[0] for key in images]
    empty = sorted(set(folders) - set(labels))
    if empty:
        raise DataError(f"class folder {root / empty[0]} holds no image; fill it or remove it")
    return _Listing(images, labels, None, [])


# --------------------------------------------------------------------------------------- labels from metadata.jsonl
def _from_metadata(root: Path, images: list[str], data: Data) -> _Listing:
    field = data.label or "label"
    seen: dict[str, int] = {}
    texts: list[Any] = []
    labels: list[Any] = []
    path = root / METADATA
    check_inside(path, root)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error}); write it again") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _row(line, where)
        key = _contained(row["file_name"], root, where)
        if key in seen:
            raise DataError(f"{where}: {key} is already on line {seen[key]}; list every image once")
        seen[key] = number
        texts.append(row.get("text"))
        labels.append(row.get(field))
    if not seen:
        raise DataError(f'{path} lists no image; write one line per image: {{"file_name": "a.png", "text": "a cat"}}')
    numbers = list(seen.values())
    prompts = _all_or_none(texts, "text", path, numbers)
    if prompts is not None and not all(isinstance(text, str) for text in prompts):
        raise DataError(f"{path}: 'text' must be a string on every line")
    found = _all_or_none(labels, field, path, numbers)
    if found is None and data.label is not None:
        raise DataError(f"{path}: no line has the field '{field}' that data.label asks for")
    return _Listing(list(seen), found, prompts, sorted(set(images) - set(seen)))


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error}); one object per line is wanted") from error
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or not row["file_name"]:
        raise DataError(f'{where}: no \'file_name\'; write for example {{"file_name": "a.png", "text": "a cat"}}')
    return row


def _contained(name: str, root: Path, where: str) -> str:
    """The relative path of a listed file. Raises DataError when it leads out of the folder, or is no file."""
    if "\0" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise DataError(f"{where}: file_name {name!r} leads out of {root}; use paths below the folder")
    key = PurePosixPath(name).as_posix()
    check_inside(root / key, root)
    if not (root / key).is_file():
        raise DataError(f"{where}: {root / key} does not exist; correct the line or add the file")
    return key


def _all_or_none(values: list[Any], field: str, path: Path, numbers: list[int]) -> list[Any] | None:
    missing = [number for number, value in zip(numbers, values, strict=True) if value is None]
    if len(missing) == len(values):
        return None
    if missing:
        raise DataError(f"{path}, line {missing[0]}: no '{field}', which other lines have; give it on every line or on none")
    return values
