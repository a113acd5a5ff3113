"""Files in an object store, by a URL such as s3://bucket/path. Every library of fsspec's can be the store.

An object appears as a whole or not at all, as a file that is renamed. What does not exist here is a rename, a
lock, and a line that is overwritten in place; `runs/remote.py` publishes a run without them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from difflab.core.errors import ConfigError, DifflabError, StoreError
from difflab.core.files import atomic
from difflab.core.hashing import digest
from difflab.core.text import plain
from difflab.runs import lease

INSTALL = {
    "s3": 'pip install "difflab[remote]"',
    "s3a": 'pip install "difflab[remote]"',
    "gs": "pip install gcsfs",
    "gcs": "pip install gcsfs",
    "az": "pip install adlfs",
    "abfs": "pip install adlfs",
}
SETTLE_S = 1.0
"""Seconds until a new lease is read back, from stores that overwrite it instead of refusing."""
VERSIONS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "mtime", "created")
"""Keys of fsspec's listings that change when an object is written again."""


@dataclass(frozen=True)
class Listed:
    """An object in a listing.

    Attributes:
        size: bytes.
        version: text that changes when the object is written again.
    """

    size: int
    version: str


class Objects:
    """The objects under a URL. Names are relative to it, with / between folders.

    Every method raises StoreError of one line if the store refuses or cannot be reached.

    Args:
        url: such as s3://bucket/path. Credentials and addresses come from the environment, as each library
            of fsspec's reads them.

    Raises ConfigError if the URL is no object store, and StoreError if its library is not installed.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self._fs, self._root = _opened(self.url)

    def __str__(self) -> str:
        return self.url

    # ------------------------------------------------------------------------------------------- objects
    def listing(self) -> dict[str, Listed]:
        """All objects by name."""
        with self._reaching("listing it"):
            self._fs.invalidate_cache()
            found = self._fs.find(self._root, detail=True)
        listed = {}
        for path, about in found.items():
            name = path.removeprefix(f"{self._root}/")
            if name == path or not name or name.endswith("/"):
                continue
            if ".." in PurePosixPath(name).parts or name.startswith("/"):
                raise StoreError(f"{self.url} has an object with the name {plain(name)!r}, which is no file")
            version = next((str(about[key]) for key in VERSIONS if about.get(key)), "")
            listed[name] = Listed(int(about["size"]), version)
        return listed

    def get(self, name: str, to: Path, size: int) -> None:
        """Copy an object of `size` bytes to the file `to`, atomically."""
        with atomic(to) as temporary:
            with self._reaching(f"reading {name}"):
                self._fs.get_file(self._at(name), str(temporary))
            if temporary.stat().st_size != size:
                raise StoreError(
                    f"{self.url}/{name} has changed while it was read; run the same command again"
                )

    def put(self, path: Path, name: str) -> None:
        """Copy a file to the object `name`, which is replaced."""
        with self._reaching(f"writing {name}"):
            self._fs.put_file(str(path), self._at(name))

    def remove(self, name: str) -> None:
        """Delete an object that may be gone already."""
        with self._reaching(f"deleting {name}"), suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _reaching(self, doing: str) -> Iterator[None]:
        try:
            yield
        except DifflabError:
            raise
        except Exception as error:  # each library has exceptions of its own
            reason = plain(" ".join(str(error).split())[:200]) or "no reason was given"
            raise StoreError(
                f"{self.url}: {doing} failed ({type(error).__name__}: {reason}); {_advice(error)}, and run "
                "the same command again to resume"
            ) from error

    # ------------------------------------------------------------- leases, see `lease.Place` for the methods
    def identity(self) -> tuple[str, int]:
        """Hash of the URL, and 0: a copy under another URL is another run."""
        return digest(self.url), 0

    def numbers(self) -> list[int]:
        """The numbers of the leases, in any order."""
        with self._reaching("listing it"):
            self._fs.invalidate_cache()
            try:
                paths = self._fs.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
        names = [lease.NAME.fullmatch(path.rpartition("/")[2]) for path in paths]
        return [int(match[1]) for match in names if match]

    def read(self, number: int) -> bytes | None:
        """The content of a lease; None = there is none."""
        with self._reaching("reading its lease"):
            try:
                content: bytes = self._fs.cat_file(self._at(lease.NAMED.format(number)))
                return content
            except FileNotFoundError:
                return None

    def create(self, number: int, content: bytes) -> bool:
        """Create a lease; False if another process has created it.

        S3, Google and Azure refuse to create an object that exists. Other stores may overwrite it, so that
        the lease is read back, and the last writer has it.
        """
        with self._reaching("writing its lease"):
            try:
                self._fs.pipe_file(self._at(lease.NAMED.format(number)), content, mode="create")
            except FileExistsError:
                pass  # by another process, or by this one if the answer to its first request was lost
            else:
                time.sleep(SETTLE_S)
        return self.read(number) == content

    def renew(self, number: int, token: str, state: str) -> None:
        """Write a lease that holds `token` again, with another second line."""
        first = (self.read(number) or b"").split(b"\n", 1)[0]
        if token.encode() in first:
            with self._reaching("writing its lease"):
                content = first + b"\n" + lease.state_line(state)
                self._fs.pipe_file(self._at(lease.NAMED.format(number)), content)

    def delete(self, number: int) -> None:
        """Delete a lease that may be gone already."""
        self.remove(lease.NAMED.format(number))


def _opened(url: str) -> tuple[Any, str]:
    """The file system of fsspec's and the path in it."""
    scheme, _, place = url.partition("://")
    if not place.strip("/"):
        raise ConfigError(f"{url} names no bucket; give a URL such as s3://bucket/path")
    try:
        from fsspec.core import url_to_fs

        opened, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        install = INSTALL.get(
            scheme.lower(), "pip install fsspec and the package that the text in brackets names"
        )
        raise StoreError(f"{scheme}:// needs a package that is missing ({error}); {install}") from error
    except Exception as error:  # a protocol that nobody knows, or a URL that its library cannot read
        raise ConfigError(
            f"{url} cannot be opened ({error}); give a folder, or a URL such as s3://bucket/path"
        ) from error
    if scheme.lower() in ("file", "local"):
        raise ConfigError(f"{url} is a folder on this machine; give its path instead: {root}")
    return opened, root.rstrip("/")


def _advice(error: Exception) -> str:
    """What to look at after an error of a store."""
    if "Credential" in type(error).__name__:
        return "set the credentials in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if isinstance(error, PermissionError):
        return "check that the credentials may list, read, write and delete there"
    if isinstance(error, FileNotFoundError):
        return "check that the bucket exists"
    return "check the address and the network"
