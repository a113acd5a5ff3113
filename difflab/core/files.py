"""Write files atomically (temporary name, then rename), and read text, JSON and tensors with clear errors."""

from __future__ import annotations

import codecs
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from difflab.core import fence
from difflab.core.errors import DISK_ERROR, DISK_FULL, ConfigError, DataError, DifflabError, StoreError
from difflab.core.text import is_url


def cache_home() -> Path:
    """The folder of data that runs share and can compute again. It may be deleted at any time.

    It is $DIFFLAB_CACHE, else $XDG_CACHE_HOME/difflab, else ~/.cache/difflab. Raises ConfigError if
    $DIFFLAB_CACHE is a URL.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder_from("DIFFLAB_CACHE") or caches / "difflab"


def folder_from(variable: str) -> Path | None:
    """The folder that an environment variable names; None = it is not set.

    Raises ConfigError for a URL: an object store has no memory maps, which these folders are read through.
    """
    value = os.environ.get(variable)
    if is_url(value):
        raise ConfigError(
            f"{variable}={value} is a URL and must be a folder, on a disk that all machines see"
        )
    return Path(value) if value else None


ASSETS = Path(__file__).parent.parent / "assets"
"""Weights and images that ship with difflab."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`. After the block it is renamed to `path`.

    If the block fails, the temporary file is deleted. Raises StoreError if the disk is full or refuses the
    file, if `path` is a folder, and if another process has taken over the run that `path` is in.
    """
    temporary = fence.temporary_of(path)
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise StoreError(
                    f"{path} is a folder, but must be a file; delete it and run the same command again"
                )
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            fence.put(temporary, path)
    finally:
        with suppress(OSError):  # the next process deletes what a failing disk keeps
            temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Context manager for writing `path`: an error of the disk becomes a StoreError that names `path`.

    Libraries report such errors as OSError or in types of their own. Wrong paths, such as FileNotFoundError,
    are passed on: the caller may expect them. If another process has taken over the run of `path`, the
    error says that.
    """
    try:
        yield
    except DifflabError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not DISK_ERROR.search(str(error)):
            raise
        fence.check(path)  # the process that took over has deleted the temporary file: say that
        wrong_path = isinstance(error, (FileNotFoundError, FileExistsError, NotADirectoryError))
        if wrong_path and not DISK_FULL.search(str(error)):
            raise
        raise _refused(path, error) from error


def _refused(path: Path, error: Exception) -> StoreError:
    """The error of a file that the disk does not take."""
    if DISK_FULL.search(str(error)):
        return StoreError(
            f"no space left on the disk while writing {path}; free some space and run the same command again "
            "to resume"
        )
    reason = getattr(error, "strerror", None) or error
    return StoreError(
        f"{path} cannot be written ({reason}); check the disk and its permissions, and run the same command "
        "again to resume"
    )


def to_disk(folder: Path) -> None:
    """Wait until all files in a folder are on the disk.

    Libraries do not wait, so that a loss of power after a rename of the folder would leave empty files.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())


def write_bytes(path: Path, payload: bytes) -> None:
    """Write bytes to a file atomically, as `atomic` does."""
    with atomic(path) as temporary:
        temporary.write_bytes(payload)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode())


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file. An unfinished last line, which a killed process has left, is cut off first.

    Raises StoreError if the disk is full or refuses the line.
    """
    fence.check(path)
    payload = f"{line}\n".encode()
    with disk_errors(path), open(path, "ab+", buffering=0) as handle:
        handle.seek(0)
        before = handle.read()
        if len(finished := _finished(before)) < len(before):
            handle.truncate(len(finished))
        if handle.write(payload) < len(payload):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_appended(path: Path) -> list[str]:
    """The lines that `append_line` has written. An unfinished last line is left out."""
    return _finished(path.read_bytes()).decode().splitlines()


def _finished(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_table(path: Path, rows: Any) -> None:
    """Write a pyarrow table atomically as a parquet file, compressed and with checksums of its pages."""
    import pyarrow.parquet as pq

    with atomic(path) as temporary:
        pq.write_table(rows, temporary, compression="zstd", write_page_checksum=True)


def read_json(path: Path, kind: Any = Any) -> Any:
    """The content of a JSON file.

    Raises StoreError if it is missing, damaged, or not of the type `kind`, which pydantic validates.
    """
    try:
        content = json.loads(path.read_text())
        _adapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise StoreError(f"{path} is damaged ({reason}); delete it and run the same command again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{path} is missing or damaged ({error}); delete it and run the same command again"
        ) from error
    return content


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def write_tensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write a dict of torch tensors atomically as a safetensors file."""
    from safetensors.torch import save_file

    with atomic(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def read_tensors(path: Path) -> dict[str, Any]:
    """The torch tensors of a safetensors file. Raises StoreError if it is missing or damaged."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # the message is the same for a missing, truncated or foreign file
        raise StoreError(
            f"{path} cannot be read ({error}); delete it and run the same command again"
        ) from error


def existing(path: Path, side: str) -> Path:
    """`path` with ~ expanded. Its last part may be a pattern such as train-*.parquet.

    Raises DataError if the path does not exist, or no file matches the pattern. `side` is the name of the set
    in the message.
    """
    path = path.expanduser()
    if not path.exists() and not matches(path):
        raise DataError(
            f"{side}: {path} does not exist (current folder: {Path.cwd()}); give a folder of images, or a "
            ".parquet, .npz or .npy file"
        )
    return path


def matches(pattern: Path) -> list[Path]:
    """The sorted files that match a pattern with * or ? in its last part; [] for a path without a pattern."""
    if not set("*?") & set(pattern.name):
        return []
    return sorted(path for path in pattern.parent.glob(pattern.name) if path.is_file())


# ---------------------------------------------------------------------------------------- text files of users
# UTF-32 comes before UTF-16, because the little-endian mark of UTF-32 starts with that of UTF-16.
BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_text(path: Path) -> str:
    """The text of a file that a user wrote. Line ends are not changed.

    The encoding is that of the byte-order mark, else UTF-8. Raises DataError that names the file and the line
    that cannot be decoded.
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
    """The lines of a text file, split at "\\n" only.

    str.splitlines() is not used, because it also splits at other characters that a text may contain.
    """
    return read_text(path).split("\n")


def sound(text: str, where: str) -> str:
    """Return `text`, unchanged.

    Raises DataError that names `where` if the text contains half of a surrogate pair, which UTF-8 cannot
    encode.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {text[:60]!a} contains half of a surrogate pair ({error.object[error.start]!a}); "
            "write the text again"
        ) from error
    return text
