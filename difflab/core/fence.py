"""Files get their final names here, and only a process that still holds the folder may give them.

A run that is claimed registers its folder (`guard`). Every rename below that folder first asks whether the
claim still holds. Temporary names carry the process that writes, and the number of its claim, so that the
next process can tell the leftovers of a dead one from the work of a living one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from difflab.core.owner import TAG, Fate, Owner, this_process

NAME = re.compile(rf"\..+\.(?P<owner>{TAG})(?:-claim(?P<claim>[0-9]+))?\.tmp")
"""The names that `temporary_of` makes."""
LONGEST = 40
"""Characters of the final name in a temporary name. File systems allow 255 bytes in all."""


class Claim(Protocol):
    """What `guard` takes: the claim of a folder."""

    number: int

    def check(self) -> None:
        """Raise StoreError if another process has taken over the folder."""


_claims: dict[str, Claim] = {}


def guard(folder: Path, claim: Claim) -> None:
    """Check `claim` before every rename below `folder` in this process."""
    _claims[os.path.abspath(folder)] = claim


def unguard(folder: Path) -> None:
    """Stop the checks of `guard`."""
    _claims.pop(os.path.abspath(folder), None)


def claim_of(path: Path) -> Claim | None:
    """The claim of this process on the nearest folder around `path`, or on `path`; None = there is none."""
    if not _claims:
        return None
    place = os.path.abspath(path)
    while place not in _claims:
        place, child = os.path.dirname(place), place
        if place == child:
            return None
    return _claims[place]


def check(path: Path) -> None:
    """Raise StoreError if `path` is in a folder that this process had claimed and another one took over."""
    claim = claim_of(path)
    if claim is not None:
        claim.check()


def temporary_of(path: Path) -> Path:
    """The temporary name of a file or folder that will be renamed to `path`."""
    claim = claim_of(path)
    number = "" if claim is None else f"-claim{claim.number}"
    return path.with_name(f".{path.name[:LONGEST]}.{this_process().tag}{number}.tmp")


def put(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`, replacing a file or an empty folder, if the claim on the folder holds."""
    check(path)
    os.replace(temporary, path)


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`. After the block it is renamed to `path`.

    Leftovers for `path` of dead processes are deleted first. If the block fails, the folder is deleted.
    `replace`: a folder `path` is deleted before the rename; else it must be missing or empty.
    """
    delete_leftovers(path)
    temporary = temporary_of(path)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if replace and path.exists():
            aside = temporary_of(path.with_name(f"{path.name}-before"))
            put(path, aside)
            shutil.rmtree(aside, ignore_errors=True)
        put(temporary, path)
    except OSError:
        check(path)  # the process that took over has deleted the temporary folder: say that
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def delete_leftovers(path: Path) -> None:
    """Delete the temporary files and folders for the name `path` whose process is dead."""
    known = {f".{path.name}.tmp", f".{path.name}.export.tmp"}  # names of earlier versions
    start = f".{path.name[:LONGEST]}."
    if not path.parent.is_dir():
        return
    for entry in os.scandir(path.parent):
        ours = entry.name.startswith(start) and NAME.fullmatch(entry.name)
        if entry.name in known or (ours and is_leftover(entry.name, 0)):
            remove(Path(entry.path))


def is_leftover(name: str, claim: int) -> bool:
    """Whether no living process can rename the temporary file of this name in a folder with claim `claim`.

    A process of an earlier claim has lost the folder, so that it cannot. Any other process is asked for, as
    far as this machine can tell. Names of earlier versions of difflab do not tell: their processes held a
    lock, which has been checked.
    """
    parts = NAME.fullmatch(name)
    if parts is None:
        return True
    if parts["claim"] is not None and int(parts["claim"]) < claim:
        return True
    owner = Owner.from_tag(parts["owner"])
    return owner is not None and owner.fate() is Fate.DEAD


def remove(path: Path) -> None:
    """Delete a file or a folder that may be gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
