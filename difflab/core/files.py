"""Write files atomically (temporary name, then rename), and read text, JSON and tensors with clear errors."""

from __future__ import annotations

import codecs
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from difflab.core.errors import DataError, StoreError


def cache_home() -> Path:
    """Folder of data that runs share and that can be computed again: $DIFFLAB_CACHE or ~/.cache/difflab.

    It may be deleted at any time.
    """
    return Path(
        os.environ.get("DIFFLAB_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "difflab"
    )


ASSETS = Path(__file__).parent.parent / "assets"
"""Weights and images that ship with difflab."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure nothing is left behind.

    Raises StoreError when the disk is full, with what to do.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise StoreError(
                f"{path} is a folder where a file is to be written; delete it and run the same command again"
            )
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"no space left on the disk while writing {path}; free some and run the same command again, "
                "it resumes"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, payload: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(payload)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, thing: Any) -> None:
    write_text(path, json.dumps(thing, indent=1, sort_keys=True) + "\n")


def write_table(path: Path, rows: Any) -> None:
    """Write a pyarrow table as parquet, compressed and with checksums, whole or not at all."""
    import pyarrow.parquet as pq

    with atomic(path) as temporary:
        pq.write_table(rows, temporary, compression="zstd", write_page_checksum=True)


def read_json(path: Path, kind: Any = Any) -> Any:
    """The content of a JSON file.

    Raises StoreError if it is missing, damaged, or not of the type `kind`, which pydantic validates.
    """
    try:
        found = json.loads(path.read_text())
        _adapter(kind).validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise StoreError(f"{path} is damaged ({reason}); delete it and run the same command again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{path} is missing or damaged ({error}); delete it and run the same command again"
        ) from error
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def write_tensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Save a dict of torch tensors as safetensors."""
    from safetensors.torch import save_file

    with atomic(path) as temporary:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        except (
            Exception
        ) as error:  # safetensors reports I/O trouble as its own exception type; pass it on as what it is
            if "No space left" in str(error):
                raise OSError(errno.ENOSPC, "No space left on device") from error
            raise


def read_tensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # one message for a missing, truncated or foreign file
        raise StoreError(
            f"{path} cannot be read ({error}); delete it and run the same command again"
        ) from error


def existing(path: Path, side: str) -> Path:
    """`path` with ~ expanded.

    Its last part may be a pattern such as train-*.parquet. Raises DataError if nothing exists there.
    """
    path = path.expanduser()
    if not path.exists() and not matches(path):
        raise DataError(
            f"{side}: {path} does not exist (looked from {Path.cwd()}); give a folder of images, a parquet "
            "file, .npz or .npy"
        )
    return path


def matches(pattern: Path) -> list[Path]:
    """The files that match a pattern with * or ? in the last part, sorted; [] for paths without one."""
    if not set("*?") & set(pattern.name):
        return []
    return sorted(path for path in pattern.parent.glob(pattern.name) if path.is_file())


# -------------------------------------------------------------------------------------------- text of users
# UTF-32 before UTF-16: the little-endian mark of UTF-32 begins with that of UTF-16.
BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_text(path: Path) -> str:
    """The text of a file that a user wrote: UTF-8, or what its byte-order mark says; no line end is changed.

    Raises DataError that names the file, and the line that is no such text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    mark, encoding = next((pair for pair in BOMS if raw.startswith(pair[0])), (b"", "utf-8"))
    body = raw[len(mark) :]
    try:
        return body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body[: error.start].decode(encoding, "ignore").count("\n") + 1
        raise DataError(
            f"{path}, line {line}: cannot be read as {encoding.upper()} text ({error.reason}); save it as "
            "UTF-8"
        ) from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file.

    They end at "\\n" alone: str.splitlines() also cuts at characters that texts may hold.
    """
    return read_text(path).split("\n")


def sound(text: str, where: str) -> str:
    """Return `text`.

    Raises DataError that names `where` if it holds half of a surrogate pair, which cannot be encoded as
    UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {text[:60]!a} holds half of a surrogate pair ({error.object[error.start]!a}); write "
            "the text again"
        ) from error
    return text
