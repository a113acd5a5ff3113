"""The embeddings of prompts in one safetensors file, which is read through a memory map.

The file is joined from parts. A part holds the embeddings of one batch of prompts, so an interrupted encoding
continues where it stopped, and several processes can share the work.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from accelerate.utils.memory import clear_device_cache
from safetensors import safe_open

from difflab.core.errors import StoreError
from difflab.core.files import atomic, write_tensors
from difflab.models.text_to_image.architecture import Texts, lengthened

Reader = Callable[[Sequence[str | None]], Texts]
"""Prompts, None = the null condition -> their embeddings."""
TYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "BOOL": torch.bool,
}
"""The types of safetensors that embeddings, token ids and masks have."""


def encode(
    path: Path,
    prompts: Sequence[str | None],
    batch: int,
    open_encoders: Callable[[], Reader],
    part: int = 0,
    parts: int = 1,
) -> None:
    """Write the embeddings of this process's batches of prompts that are not on disk yet.

    The text encoders are loaded only if a batch is missing, and their memory is freed before this returns.

    Args:
        path: the file that `join` will write.
        prompts: all prompts of the file.
        batch: number of prompts in one pass of the encoders.
        open_encoders: loads the text encoders.
        part: number of this process.
        parts: number of processes that share the work.
    """
    if path.exists():
        return
    own = list(_parts(path, len(prompts), batch))[part::parts]
    missing = [(start, file) for start, file in own if not file.exists()]
    if not missing:
        return
    read = open_encoders()
    for start, file in missing:
        tables = read(prompts[start : start + batch])
        write_tensors(file, {name: table.cpu() for name, table in tables.items()})
    del read
    clear_device_cache(garbage_collection=True)


def join(path: Path, count: int, batch: int) -> None:
    """Join the parts of `count` prompts into the file `path`, and delete them.

    Shorter prompts are padded with zeros to the longest one. One part is in memory at a time. Nothing is done
    if another run has written the file in the meantime.
    """
    files = [file for _, file in _parts(path, count, batch)]
    try:
        with atomic(path) as temporary, open(temporary, "wb") as out:
            _write_joined(files, out)
    except FileNotFoundError:  # another run has deleted the parts after it had joined them
        if not path.exists():
            raise
    shutil.rmtree(_home(path), ignore_errors=True)


def _write_joined(files: list[Path], out: BinaryIO) -> None:
    """Write the joined tensors of `files` in the format of safetensors."""
    shapes: dict[str, list[int]] = {}
    types: dict[str, str] = {}
    for file in files:
        with safe_open(file, "pt") as handle:
            for name in handle.keys():  # noqa: SIM118 (the handle is no dict)
                part = handle.get_slice(name)
                types[name] = part.get_dtype()
                shapes[name] = _longest(shapes.get(name), part.get_shape())
    # Larger types come first, so that every tensor begins at a multiple of its type's size.
    names = sorted(types, key=lambda name: (-TYPES[types[name]].itemsize, name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        begin, end = end, end + math.prod(shapes[name]) * TYPES[types[name]].itemsize
        header[name] = {"dtype": types[name], "shape": shapes[name], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        for file in files:
            out.write(_bytes(file, name, shapes[name]))


def mapped(path: Path) -> Texts:
    """The tensors of a safetensors file as memory maps: a row is read from disk when it is indexed.

    Raises StoreError if the file is damaged.
    """
    try:
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(length))
        content = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
        tables = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            tables[name] = content[begin:end].view(TYPES[entry["dtype"]]).view(entry["shape"])
    except (OSError, OverflowError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise StoreError(
            f"{path} cannot be read ({error}); delete it and run the same command again"
        ) from error
    return tables


def _home(path: Path) -> Path:
    """The folder of the parts."""
    return path.with_suffix(".parts")


def _parts(path: Path, count: int, batch: int) -> Iterator[tuple[int, Path]]:
    """The first prompt of every part, and its file."""
    for start in range(0, count, batch):
        yield start, _home(path) / f"{start:09}-{min(start + batch, count):09}.safetensors"


def _longest(shape: list[int] | None, other: list[int]) -> list[int]:
    """The shape of two tensors [n, L, ...] together, each padded to the longer one."""
    if shape is None:
        return list(other)
    longest = [max(pair) for pair in zip(shape[1:2], other[1:2], strict=True)]
    return [shape[0] + other[0], *longest, *shape[2:]]


def _bytes(file: Path, name: str, shape: list[int]) -> Any:
    """The bytes of one tensor of a part, padded to the length of `shape`."""
    with safe_open(file, "pt") as handle:
        tensor = handle.get_tensor(name)
    if tensor.ndim > 1:
        tensor = lengthened(tensor, shape[1])
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
