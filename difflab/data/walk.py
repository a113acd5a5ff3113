"""List the files of a folder. Links that lead out of it and folders that look like splits are refused."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from difflab.core.errors import DataError
from difflab.data.decode import FOREIGN_SUFFIXES, suffixes

# word -> the split that it stands for, as Hugging Face `datasets` reads the names of files and folders
SPLITS = {"train": "train", "training": "train", "trainval": "train"}
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
SPLITS |= dict.fromkeys(("test", "testing", "eval", "evaluation"), "test")
# A class may be called "train station": of a folder of images the whole name must be a split's, as in train,
# val2017 or test_images.
SPLIT_FOLDER = re.compile(
    rf"(?:images?[-_ ])?({'|'.join(SPLITS)})[-_ ]?\d*(?:[-_ ]?(?:set|split|images?|imgs?|data))?",
    re.IGNORECASE,
)


def inside_folder(argument: str | Path, source: str) -> Path:
    """The resolved path of a folder; for a repository in the hub's cache, its only snapshot.

    Raises DataError if it is no folder.
    """
    path = Path(argument).expanduser()
    if not path.is_dir():
        raise DataError(
            f"data.source={source}: {path} {'is not a folder' if path.exists() else 'does not exist'} "
            f"(looked from {Path.cwd()}); give the path of a folder"
        )
    path = path.resolve()
    if not ((path / "snapshots").is_dir() and (path / "blobs").is_dir()):
        return path
    snapshots = sorted(entry for entry in (path / "snapshots").iterdir() if entry.is_dir())
    if len(snapshots) != 1:
        raise DataError(
            f"{path} is a cache with {len(snapshots)} snapshots; give one of them, for example "
            f"{path / 'snapshots' / 'REVISION'}"
        )
    return snapshots[0]


def walk(root: Path) -> list[str]:
    """All files below `root` as sorted relative paths with '/', without hidden ones.

    Raises DataError at a link that leads out.

    Links to folders are not followed: their images would be counted twice.
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
                    raise DataError(
                        f"{path} is a symbolic link to a folder; put the folder itself in its place"
                    )
            if entry.is_dir(follow_symlinks=False):
                todo.append(path)
            elif entry.is_symlink() or entry.is_file():  # opening a pipe or a device would block
                found.append(path.relative_to(root).as_posix())
    return sorted(found)


def check_inside(path: Path, root: Path) -> None:
    """Raise DataError when `path`, all links followed, lies outside `root`.

    A snapshot in the hub's cache consists of links to ../../blobs. These count as inside.
    """
    target = Path(os.path.realpath(path))
    if target.is_relative_to(root):
        return
    caches = [folder.parent.parent for folder in (root, *root.parents) if folder.parent.name == "snapshots"]
    if not any(target.is_relative_to(cache / "blobs") for cache in caches):
        raise DataError(
            f"{path} is or lies behind a symbolic link that leads out of {root} (to {target}); copy the file "
            "there instead"
        )


def suffix_of(key: str) -> str:
    return PurePosixPath(key).suffix.lower()


def is_image(key: str) -> bool:
    """Whether a file is an image to be read, by its suffix.

    Raises DataError for formats that are not supported and for names that are not UTF-8.
    """
    suffix = suffix_of(key)
    if suffix in FOREIGN_SUFFIXES:
        raise DataError(f"{key}: images of type {suffix} are not read; convert it to PNG, or remove it")
    if suffix not in suffixes():
        return False
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{key!a}: the name of this file is not UTF-8; rename it") from error
    return True


def ignored(files: Iterable[str], used: Iterable[str]) -> dict[str, int]:
    """The number of unused files for each suffix."""
    return dict(Counter(suffix_of(key) for key in set(files) - set(used)))


# --------------------------------------------------------------------------------------------------- splits
def split_folders(images: Iterable[str]) -> tuple[str, dict[str, str]] | None:
    """The first folder, at any depth, whose subfolders look like splits: (its path, split -> name of the
    subfolder). None if there is none.
    """
    found: dict[str, dict[str, str]] = {}
    for parent in {str(parent) for key in images for parent in PurePosixPath(key).parents if parent.name}:
        match = SPLIT_FOLDER.fullmatch(PurePosixPath(parent).name)
        if match:
            found.setdefault(str(PurePosixPath(parent).parent), {}).setdefault(
                SPLITS[match[1].lower()], PurePosixPath(parent).name
            )
    return next(((above, splits) for above, splits in sorted(found.items()) if len(splits) > 1), None)


def refuse_split_folders(root: Path, images: Iterable[str]) -> None:
    """Raise DataError if folders of images look like splits: a run would train on test images."""
    found = split_folders(images)
    if found is not None:
        above, names = root / found[0], sorted(found[1].values())
        one = above / found[1].get("train", names[0])
        raise DataError(
            f"{above}: {', '.join(names)} look like splits, not classes; give one of them, for example {one}"
        )


def refuse_split_files(root: Path, keys: Iterable[str]) -> None:
    """Raise DataError if the names of parquet files, or of their folders, name several splits."""
    found: dict[str, list[str]] = {}
    for key in keys:
        split = _split_of(key)
        if split is not None:
            found.setdefault(split, []).append(key)
    if len(found) > 1:
        named = "; ".join(
            f"{split}: {own[0]}{f' and {len(own) - 1} more' if len(own) > 1 else ''}"
            for split, own in sorted(found.items())
        )
        one = found.get("train") or found[min(found)]
        raise DataError(
            f"{root} holds several splits ({named}), which would be read as one set; give one of them, for "
            f"example {_pattern(root, one)}"
        )


def _split_of(key: str) -> str | None:
    """The split that the name of a file contains, or else that of the nearest folder."""
    for part in reversed(PurePosixPath(key).with_suffix("").parts):
        words = re.split(r"[\W_\d]+", part.lower())
        split = next((SPLITS[word] for word in words if word in SPLITS), None)
        if split is not None:
            return split
    return None


def _pattern(root: Path, keys: list[str]) -> str:
    """A path or a pattern that selects the files `keys` of one folder."""
    folder = PurePosixPath(keys[0]).parent
    names = sorted(PurePosixPath(key).name for key in keys if PurePosixPath(key).parent == folder)
    if len(names) == 1:
        return str(root / folder / names[0])
    same = next(
        (i for i, pair in enumerate(zip(names[0], names[-1], strict=False)) if pair[0] != pair[1]),
        len(names[0]),
    )
    return str(root / folder / f"{names[0][:same]}*.parquet")
