"""Hashes of weights, configs, images and files, which identify the inputs of a result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from difflab.core.errors import StoreError
from difflab.core.files import cache_home, write_text

if TYPE_CHECKING:
    from torch import Tensor


def sha256_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors of a state dict, in the order of names."""
    import torch

    whole = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        whole.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return whole.hexdigest()


def digest(content: Any) -> str:
    """The first twelve hex digits of the SHA-256 of JSON content. A recipe hash is made this way."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[
        :12
    ]


def content_hash(array: np.ndarray) -> str:
    """SHA-256 over the dtype, shape and values of one image or record."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def file_hash_once(path: Path) -> str:
    """`file_hash`, kept in the cache of difflab until the path, size or time of change of the file differs.

    A checkpoint of many gigabytes is therefore not read again by every process.
    """
    found = path.resolve().stat()
    key = digest([str(path.resolve()), found.st_size, found.st_mtime_ns, found.st_ino])
    kept = cache_home() / "hashes" / key
    with suppress(OSError, ValueError):
        value = kept.read_text()
        if len(value) == 64:
            return value
    value = file_hash(path)
    with suppress(OSError, StoreError):  # a cache that cannot be written only costs time
        write_text(kept, value)
    return value
