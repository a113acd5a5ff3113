"""Read images from a folder, with labels and captions from subfolders, a metadata file or text files.

No file outside the folder is read.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from difflab.config import Data
from difflab.core.account import Account
from difflab.core.errors import DataError
from difflab.data.declared import COLUMNS
from difflab.data.decode import suffixes
from difflab.data.listing import CAPTIONS, Listing, captions, chosen, label_column, source_of
from difflab.data.source import LICENCE, NO_LABELS, Source, no_label_choice
from difflab.data.tables import SIDECARS, Table, metadata_of, read_sidecars, read_table, sidecars_of
from difflab.data.walk import (
    SPLIT_FOLDER,
    check_inside,
    ignored,
    inside_folder,
    is_image,
    refuse_split_folders,
    split_folders,
    walk,
)
from difflab.data.weights import as_weights

REPEATS = re.compile(r"([1-9]\d*)_(.+)")  # names of folders for kohya's training scripts: 10_sks dog


@dataclass(frozen=True)
class Files:
    """Maps a position to the path of an image."""

    root: Path
    keys: list[str]

    def __getitem__(self, position: int) -> Path:
        return self.root / self.keys[position]


def open_folder(data: Data, argument: str) -> Source:
    """Open imagefolder:PATH.

    Labels come from class folders (the first level of subfolders is the class) or from a metadata file with
    the columns file_name, text and label. A set may have no labels.

    Images are cropped around their centre and resized to data.image_size. This field is optional if all
    images are squares of one size.

    Raises DataError for a missing folder, an empty class folder, a link or file_name that leads out of the
    folder, a bad line of metadata, and images that cannot be read (unless data.bad_images=skip).
    """
    return source_of(list_folder(data, argument), data)


def list_folder(data: Data, argument: str | Path) -> Listing:
    """The images of a folder with their labels and captions. No image is opened.

    Raises the same DataError as `open_folder`.
    """
    root = inside_folder(argument, data.source)
    files = walk(root)
    metadata = metadata_of(root, files)
    images = [key for key in files if is_image(key)]
    account = Account()
    table = None if metadata is None else _checked(read_table(root / metadata), root)
    rows = table.rows if table is not None and set(table.columns) & set(COLUMNS) else None
    if table is not None:
        keys = [PurePosixPath(row["file_name"]).as_posix() for row in table.rows]
        column = label_column(data, table.columns, str(table.path))
        labels = None if column is None else table.labels(column)
        prompts = None
        splits = split_folders(keys)
        if splits is not None:  # the user listed these images, so they are read, with a note
            names = " and ".join(sorted(splits[1].values()))
            account.notes.append(
                f"{metadata} lists images in {names}, which look like splits; they are read as one set"
            )
    else:
        keys = images
        labels, prompts = _from_folders(root, images, data, account)
    sidecars = sidecars_of(files, keys)
    columns = (*(table.columns if table else ()), *sidecars)
    column = chosen(
        data.caption_column,
        (*CAPTIONS, *SIDECARS),
        columns,
        "data.caption_column",
        str(table.path if table else root),
    )
    used = {*images, *keys, *itertools.chain.from_iterable(texts.values() for texts in sidecars.values())}
    if metadata:
        used.add(metadata)
    if column in sidecars and not (table and column in table.columns):
        prompts = read_sidecars(root, sidecars[column], keys, column)
    elif column is not None and table is not None:
        prompts = captions(table.column(column), column, table.where)
    weights = None
    if data.weight is not None:
        of_table = table.columns if table else ()
        name = chosen(data.weight, (), of_table, "data.weight", str(table.path if table else root))
        if name is not None and table is not None:
            weights = as_weights(table.column(name), name, table.where)
    unlisted = sorted(set(images) - set(keys))
    account.found += len(unlisted)
    for key in unlisted:
        account.add("unlisted", key)
    account.ignored = ignored(files, used)
    files_of_keys = Files(root, keys)
    return Listing(
        data.source, str(root), keys, files_of_keys, labels, prompts, LICENCE, columns, account, rows, weights
    )


# --------------------------------------------------------------------------------- labels from folder names
def _from_folders(
    root: Path, images: list[str], data: Data, account: Account
) -> tuple[list[Any] | None, list[str] | None]:
    """Labels and captions from the names of class folders; (None, None) if there are none.

    The label is the name of the folder. If all folders are called REPEATS_NAME, as kohya's training scripts
    require, both the label and the caption are NAME. Otherwise there are no captions.
    """
    no_label_choice(data)
    if not images:
        raise DataError(
            f"{root} contains no image; the suffixes of images are {', '.join(sorted(suffixes()))}"
        )
    refuse_split_folders(root, images)
    flat = [key for key in images if "/" not in key]
    if (flat and len(flat) == len(images)) or data.label == NO_LABELS:
        return None, None
    if flat:
        raise DataError(
            f"{root} contains images beside class folders, for example {flat[0]}; move them into a class "
            "folder, or remove them"
        )
    folders = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and entry.name != "__MACOSX"
    )
    if all(SPLIT_FOLDER.fullmatch(name) for name in folders):
        raise DataError(
            f"{root}: {', '.join(folders)} look like splits, not classes; use one of them, for example "
            f"{root / folders[0]}"
        )
    labels = [key.partition("/")[0] for key in images]
    empty = sorted(set(folders) - set(labels))
    if empty:
        raise DataError(f"class folder {root / empty[0]} contains no image; add images or remove the folder")
    matches = {name: REPEATS.fullmatch(name) for name in folders}
    names = {name: match[2] for name, match in matches.items() if match}
    if len(names) < len(folders):
        return labels, None
    account.notes.append(
        f"folders are called REPEATS_NAME, for example {folders[0]}: the {len(folders)} folders are "
        f"{len(set(names.values()))} classes; the class is NAME, which is also the caption if the images "
        "have no other; every image is used once, REPEATS is ignored"
    )
    labels = [names[label] for label in labels]
    return labels, labels


# ---------------------------------------------------------------------------------------- the listed images
def _checked(table: Table, root: Path) -> Table:
    """Return the table, unchanged.

    Raises DataError for a file_name that leads out of the folder, is not a file, or is listed twice.
    """
    seen: dict[str, int] = {}
    for i, row in enumerate(table.rows):
        key = _contained(row["file_name"], root, table.where(i))
        if key in seen:
            raise DataError(
                f"{table.where(i)}: {key} is already listed in {table.places[seen[key]]}; list every image "
                "once"
            )
        seen[key] = i
    return table


def _contained(name: str, root: Path, where: str) -> str:
    """The relative path of a listed file. Raises DataError if it leads out of the folder or is not a file."""
    if "\0" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise DataError(f"{where}: file_name {name!r} leads out of {root}; use paths below the folder")
    key = PurePosixPath(name).as_posix()
    check_inside(root / key, root)
    try:
        exists = (root / key).is_file()
    except OSError:  # the name is too long
        exists = False
    if not exists:
        raise DataError(f"{where}: {root / key} does not exist; correct the line or add the file")
    return key
