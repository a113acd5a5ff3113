"""Files that are either whole or absent: write under a temporary name, then rename."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from difflab.errors import DataError, StoreError


def cache_home() -> Path:
    """Where things that can be computed again and are shared by runs lie: $DIFFLAB_CACHE or ~/.cache/difflab. May be deleted at any time."""
    return Path(os.environ.get("DIFFLAB_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "difflab")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure nothing is left behind.

    Raises StoreError when the disk is full, with what to do.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise StoreError(f"{path} is a folder where a file is to be written; delete it and run the same command again")
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no space left on the disk while writing {path}; free some and run the same command again, it resumes") from error
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


def read_json(path: Path, kind: Any = Any) -> Any:
    """What a JSON file holds. Raises StoreError where it is missing, damaged, or not of the type `kind` (as pydantic reads types)."""
    try:
        found = json.loads(path.read_text())
        _adapter(kind).validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise StoreError(f"{path} is damaged ({reason}); delete it and run the same command again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} is missing or damaged ({error}); delete it and run the same command again") from error
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
        except Exception as error:  # safetensors reports I/O trouble as its own exception type; pass it on as what it is
            if "No space left" in str(error):
                raise OSError(errno.ENOSPC, "No space left on device") from error
            raise


def read_tensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # one message for a missing, truncated or foreign file
        raise StoreError(f"{path} cannot be read ({error}); delete it and run the same command again") from error


def existing(path: Path, side: str) -> Path:
    """`path` of images, ~ expanded. Raises DataError where nothing is."""
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"{side}: {path} does not exist (looked from {Path.cwd()}); give a folder of images or a parquet file")
    return path
