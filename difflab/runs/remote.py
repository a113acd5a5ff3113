"""A run in an object store. Stages work in a local folder, and what is finished is published from there.

**Publishing.** The files whose existence says that a stage is done (`Stage.done_file`) are uploaded after all
other files of the stage. A reader takes the files of a stage only if that file is there. It therefore never
sees half of a stage, although several objects cannot be written at once.

**Resuming.** One process at a time holds the lease of the run, which lies in the store as it lies in a folder
(`runs/lease.py`). The local folder says which lease it was last worked under. If that is still the lease
before the own one, nobody else has written: files that were not published yet are kept and published now.
Otherwise the folder is emptied and everything is fetched.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from difflab.core.errors import StoreError
from difflab.core.files import cache_home, folder_from, read_json, write_json
from difflab.core.hashing import digest
from difflab.core.text import is_url
from difflab.runs import lease
from difflab.runs.folder import STAGE_TABLE
from difflab.runs.objects import Listed, Objects

IN_GENERATION = re.compile(r"(?:lab-[0-9]+/)?(?P<folder>gen-[0-9]+)/(?P<part>[^/]+).*")
IN_REAL = re.compile(r"(?P<folder>(?:lab-[0-9]+/)?real/).+")
ORDER = {stage.done_file: position for position, stage in enumerate(STAGE_TABLE)}
DONE_FILE = {part: stage.done_file for stage in STAGE_TABLE for part in stage.files}
OF_A_RUN = re.compile(r"(?:lab-[0-9]+/)?(?:[^/]+|(?:real|gen-[0-9]+|tracked)/.+)|between/[^/]+")
"""The files of a run. Other objects below its URL, such as other runs, are left alone."""
UNPUBLISHED = {"cache", "checkpoint.safetensors"}
"""Files and folders that are of use on this machine only."""
WEIGHTS = re.compile(r"(?:lab-[0-9]+/)?gen-[0-9]+/model/(?!hash\.json$).+")


# ------------------------------------------------------------------------------------------ files of a stage
def marker(name: str) -> str | None:
    """The file that says that `name` and its stage are complete, which may be `name`; None = there is none.

    >>> marker("gen-001/samples/00000.parquet")
    'gen-001/sampled.json'
    """
    if real := IN_REAL.fullmatch(name):
        return f"{real['folder']}about.json"
    match = IN_GENERATION.fullmatch(name)
    if match is None or match["part"] not in DONE_FILE:
        return None
    return name[: match.start("part")] + DONE_FILE[match["part"]]


def finished(names: Iterable[str]) -> set[str]:
    """The names without the files of stages that are not complete."""
    known = set(names)
    return {name for name in known if (sign := marker(name)) is None or sign in known}


def listing(objects: Objects) -> dict[str, Listed]:
    """The files of the run among the objects, without leases.

    Raises StoreError if there are other objects and no run.
    """
    found = objects.listing()
    listed = {name: about for name, about in found.items() if OF_A_RUN.fullmatch(name) and name[0] != "."}
    if "run.yaml" not in listed and not all(map(lease.NAME.fullmatch, found)):
        raise StoreError(f"{objects} is not empty and contains no run (no run.yaml); choose another URL")
    return listed


def in_order(names: Iterable[str]) -> list[str]:
    """The names in the order of publishing: files of stages, what says that they are done, and others."""
    return sorted(names, key=_position)


def _position(name: str) -> tuple[int, str, int, str]:
    sign = marker(name)
    if sign is None:
        return (0 if name.endswith("run.yaml") else 3), "", 0, name
    if sign != name:
        return 1, "", 0, name
    match = IN_GENERATION.fullmatch(name)
    if match is None:
        return 2, "", 0, name
    return 2, match["folder"], ORDER[name[match.start("part") :]], name


# ------------------------------------------------------------------------------------------- local folders
def scratch_of(url: str, use: str = "") -> Path:
    """The local folder of the run at `url`. It is below $DIFFLAB_SCRATCH, else below the cache of difflab."""
    url = url.rstrip("/")
    home = folder_from("DIFFLAB_SCRATCH") or cache_home() / "remote"
    name = re.sub(r"[^\w.-]", "_", url.rpartition("/")[2]) or "run"
    return home / f"{digest(url)[:12]}{use}" / name


def fetched(url: str, weights: bool = False) -> Path:
    """Copy what is finished of the run at `url` into a local folder for reading, and return the folder.

    Objects that an earlier call has copied are not copied again.

    Args:
        weights: also copy the weights of the models, which most commands do not read.

    Raises StoreError if there is no run, or the store cannot be reached.
    """
    objects, folder = Objects(url), scratch_of(url, "-read")
    listed = listing(objects)
    if "run.yaml" not in listed:
        raise StoreError(
            f"{objects} contains no run (no run.yaml); start one with: difflab run --out {objects}"
        )
    record = folder.parent / "fetched.json"
    before = read_json(record, dict[str, str]) if record.exists() else {}
    whole = finished(listed)
    for name in before.keys() - whole:
        (folder / name).unlink(missing_ok=True)
    now = {name: version for name, version in before.items() if name in whole}
    try:
        for name in in_order(whole):
            if WEIGHTS.fullmatch(name) and not weights:
                continue
            if now.get(name) != listed[name].version or not (folder / name).exists():
                objects.get(name, folder / name, listed[name].size)
                now[name] = listed[name].version
    finally:
        write_json(record, now)
    return folder


# --------------------------------------------------------------------------------------------------- writing
@dataclass
class Site:
    """Where a process works on a run.

    Attributes:
        folder: the folder of the run.
    """

    folder: Path

    def publish(self) -> None:
        """Copy what is finished to the object store of the run; nothing for a run without one."""


Stamp = tuple[int, int]
"""Size in bytes and time of the last change in ns of a file."""


class Record(BaseModel):
    """The content of published.json, beside the local folder of a run. See `Published` for its keys."""

    token: str
    known: dict[str, Stamp | None]


@dataclass
class Published(Site):
    """A folder whose files are published.

    Attributes:
        objects: the store.
        held: the lease of this process in the store.
        known: what is in the store: name -> stamp of the local file when it was copied; None = leftovers.
    """

    objects: Objects
    held: lease.Lease
    known: dict[str, Stamp | None] = field(default_factory=dict)

    @classmethod
    def claimed(cls, url: str, say: Callable[[str], None] | None = None) -> Published:
        """Claim the run at `url` and make its local folder equal to what is finished of it.

        Raises StoreError if another process works on it, or the store cannot be reached.
        """
        objects, folder = Objects(url), scratch_of(url)
        listing(objects)
        before = lease.highest(objects)
        content = objects.read(before) if before else None
        site = cls(folder, objects, lease.claim(objects, say))
        try:
            token, known = site._remembered()
            if content and token.encode() in content and site.held.number == before + 1:
                site.known = known
            else:
                shutil.rmtree(folder, ignore_errors=True)
            site._remember()
            site._fetch()
        except BaseException:
            site.held.release()
            raise
        return site

    def publish(self) -> None:
        """Copy files that have changed to the store.

        Of a stage that was done again, what says that it is done and files that it no longer has are deleted
        first. Other files stay in the store, whatever happens to the local folder.

        Raises LeaseLost if another process has taken over the run, and StoreError if the store fails. What
        was copied until then is whole, and the same command goes on from there.
        """
        self.held.check()
        stamps = self._stamps()
        changed = [name for name, stamp in stamps.items() if self.known.get(name) != stamp]
        redone = {name for name in changed if name == marker(name) and self.known.get(name)}
        missing = self.known.keys() - stamps.keys()
        gone = [name for name in missing if self.known[name] is None or marker(name) in redone]
        try:
            for name in [*redone, *gone]:
                self.objects.remove(name)
                del self.known[name]
            for name in in_order(changed):
                if name == marker(name):
                    self.held.check()
                self.objects.put(self.folder / name, name)
                self.known[name] = stamps[name]
        finally:
            self._remember()

    def _fetch(self) -> None:
        """Copy what is missing here, and delete what was deleted in the store since it was published."""
        listed = listing(self.objects)
        whole = finished(listed)
        for name in [name for name in self.known if name not in listed]:
            path = self.folder / name
            if path.exists() and self.known[name] == _stamp(path):
                path.unlink()
            del self.known[name]
        try:
            for name in in_order(listed):
                path = self.folder / name
                if path.exists():
                    continue
                self.known[name] = None
                if name in whole:
                    self.objects.get(name, path, listed[name].size)
                    self.known[name] = _stamp(path)
        finally:
            self._remember()

    def _stamps(self) -> dict[str, Stamp]:
        """The files of the run, without temporary ones and `UNPUBLISHED`."""
        stamps = {}
        for place, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".") and name not in UNPUBLISHED]
            for name in files:
                path = Path(place, name)
                if name.startswith(".") or name in UNPUBLISHED:
                    continue
                try:
                    stamps[path.relative_to(self.folder).as_posix()] = _stamp(path)
                except FileNotFoundError:
                    continue  # renamed or deleted by another process of this run
        return stamps

    @property
    def _record(self) -> Path:
        return self.folder.parent / "published.json"

    def _remember(self) -> None:
        write_json(self._record, {"token": self.held.token, "known": self.known})

    def _remembered(self) -> tuple[str, dict[str, Stamp | None]]:
        """The token of the lease under which the folder was worked on, and what was known; "-" = nothing."""
        if not self._record.exists():
            return "-", {}
        try:
            record = read_json(self._record, Record)
        except StoreError:  # damaged: the folder is emptied
            return "-", {}
        return record["token"], {name: s and (s[0], s[1]) for name, s in record["known"].items()}


def _stamp(path: Path) -> Stamp:
    about = path.stat()
    return about.st_size, about.st_mtime_ns


@contextmanager
def at_work(out: Path | str, main: bool = True, say: Callable[[str], None] | None = None) -> Iterator[Site]:
    """Yield the place where a run is worked on. A URL is claimed, and released after the block.

    Args:
        out: a folder, or a URL such as s3://bucket/path.
        main: only the main process of several talks to the store. The others work in the same folder.
        say: gets a sentence if the claim has to wait, see `lease.claim`.

    Raises StoreError if another process works on the run at the URL, or its store cannot be reached.
    """
    if not is_url(out):
        yield Site(Path(out))
        return
    if not main:
        yield Site(scratch_of(str(out)))
        return
    site = Published.claimed(str(out), say)
    try:
        yield site
    finally:
        site.held.release()
