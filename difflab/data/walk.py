"""List the files of a folder. Links that lead out of it and folders that look like splits are refused."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from difflab.core.errors import DataError
from difflab.data.decode import FOREIGN_SUFFIXES, suffixes

# word in the name of a file or folder -> the split that it means, with the words of Hugging Face `datasets`
SPLITS = {"train": "train", "training": "train", "trainval": "train"}
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
SPLITS |= dict.fromkeys(("test", "testing", "eval", "evaluation"), "test")
# The whole name of a folder must be a split, for example train, val2017 or test_images, because a class may
# be called "train station".
SPLIT_FOLDER = re.compile(
    rf"(?:images?[-_ ])?({'|'.join(SPLITS)})[-_ ]?\d*(?:[-_ ]?(?:set|split|images?|imgs?|data))?",
    re.IGNORECASE,
)


def inside_folder(argument: str | Path, source: str) -> Path:
    """The resolved path of a folder. For a repository in the hub's cache it is the path of its only snapshot.

    Raises DataError if the path is not a folder, and if the repository does not have exactly one snapshot.
    """
    path = Path(argument).expanduser()
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "does not exist"
        raise DataError(
            f"data.source={source}: {path} {problem} (current folder: {Path.cwd()}); give the path of a "
            "folder"
        )
    path = path.resolve()
    if not ((path / "snapshots").is_dir() and (path / "blobs").is_dir()):
        return path
    snapshots = sorted(entry for entry in (path / "snapshots").iterdir() if entry.is_dir())
    if len(snapshots) != 1:
        raise DataError(
            f"{path} is a cache with {len(snapshots)} snapshots; give one of them: "
            f"{path / 'snapshots' / 'REVISION'}"
        )
    return snapshots[0]


def walk(root: Path) -> list[str]:
    """All files below `root` except hidden ones, as sorted relative paths with '/'.

    Raises DataError for a link that leads out of `root` and for a link to a folder, because the images in it
    could be counted twice.
    """
    files, todo = [], [root]
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
                    raise DataError(f"{path} is a symbolic link to a folder; replace the link by the folder")
            if entry.is_dir(follow_symlinks=False):
                todo.append(path)
            elif entry.is_symlink() or entry.is_file():  # opening a pipe or a device would block
                files.append(path.relative_to(root).as_posix())
    return sorted(files)


def check_inside(path: Path, root: Path) -> None:
    """Raise DataError if `path` is outside `root` after all links are resolved.

    A snapshot in the hub's cache consists of links to ../../blobs. They are allowed.
    """
    target = Path(os.path.realpath(path))
    if target.is_relative_to(root):
        return
    caches = [folder.parent.parent for folder in (root, *root.parents) if folder.parent.name == "snapshots"]
    if not any(target.is_relative_to(cache / "blobs") for cache in caches):
        raise DataError(
            f"{path} is reached through a symbolic link that leads out of {root} (to {target}); copy the "
            "file instead"
        )


def suffix_of(key: str) -> str:
    """The suffix of a file name in lower case, with the dot."""
    return PurePosixPath(key).suffix.lower()


def is_image(key: str) -> bool:
    """Whether the suffix of a file is that of a supported image format.

    Raises DataError for an image format that is not supported, and for an image whose name is not UTF-8.
    """
    suffix = suffix_of(key)
    if suffix in FOREIGN_SUFFIXES:
        raise DataError(
            f"{key}: images of type {suffix} are not supported; convert the file to PNG, or remove it"
        )
    if suffix not in suffixes():
        return False
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{key!a}: the name of this file is not UTF-8; rename it") from error
    return True


def ignored(files: Iterable[str], used: Iterable[str]) -> dict[str, int]:
    """The number of unused files of each suffix."""
    return dict(Counter(suffix_of(key) for key in set(files) - set(used)))


# --------------------------------------------------------------------------------------------------- splits
def split_folders(images: Iterable[str]) -> tuple[str, dict[str, str]] | None:
    """The first folder, at any depth, with subfolders that look like different splits; None if there is none.

    Returns the path of the folder, and split -> the name of its subfolder.
    """
    folders: set[PurePosixPath] = set()
    for key in images:
        folders.update(folder for folder in PurePosixPath(key).parents if folder.name)
    splits_in: dict[str, dict[str, str]] = {}  # folder -> split -> the name of its subfolder
    for folder in folders:
        match = SPLIT_FOLDER.fullmatch(folder.name)
        if match:
            splits = splits_in.setdefault(str(folder.parent), {})
            splits.setdefault(SPLITS[match[1].lower()], folder.name)
    return next(((above, splits) for above, splits in sorted(splits_in.items()) if len(splits) > 1), None)


def refuse_split_folders(root: Path, images: Iterable[str]) -> None:
    """Raise DataError if folders of images look like splits, because a run would train on test images."""
    above_and_splits = split_folders(images)
    if above_and_splits is not None:
        above, splits = root / above_and_splits[0], above_and_splits[1]
        names = sorted(splits.values())
        one = above / splits.get("train", names[0])
        raise DataError(
            f"{above}: {', '.join(names)} look like splits, not classes; use one of them, for example {one}"
        )


def refuse_split_files(root: Path, keys: Iterable[str]) -> None:
    """Raise DataError if the names of parquet files, or of their folders, contain several splits."""
    files: dict[str, list[str]] = {}  # split -> its files
    for key in keys:
        split = _split_of(key)
        if split is not None:
            files.setdefault(split, []).append(key)
    if len(files) > 1:
        listed = []
        for split, of_split in sorted(files.items()):
            more = f" and {len(of_split) - 1} more" if len(of_split) > 1 else ""
            listed.append(f"{split}: {of_split[0]}{more}")
        one = files.get("train") or files[min(files)]
        raise DataError(
            f"{root} contains several splits ({'; '.join(listed)}), which would be read as one set; use one "
            f"of them, for example {_pattern(root, one)}"
        )


def _split_of(key: str) -> str | None:
    """The split in the name of a file, or else in the name of the nearest folder above it; None if none."""
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
