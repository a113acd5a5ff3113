"""Read images from .npy and .npz files.

ADM's evaluation suite uses this format (Dhariwal and Nichol 2105.05233). Arrays are memory-mapped. Pickled
objects are refused.
"""

from __future__ import annotations

import math
import shutil
import struct
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from difflab.core.errors import DataError

PIECE = 1 << 20  # bytes read at a time
SHAPES = "uint8 [n, H, W], [n, H, W, 1] or [n, H, W, 3]"


def read_arrays(path: Path, notes: list[str]) -> np.ndarray:
    """The images of a .npy or .npz file, memory-mapped: uint8 [n, H, W], [n, H, W, 1] or [n, H, W, 3].

    If a .npz file has several arrays, the images are `arr_0`, or the only array of uint8 in one of these
    shapes. A note names the others. A compressed array is unpacked into a temporary file without a name.

    Raises DataError that names the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns about headers that Python 2 wrote
            if zipfile.is_zipfile(path):
                return _from_zip(path, notes)
            array = np.lib.format.open_memmap(path, mode="r")  # it refuses pickled objects
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise exceptions of almost any type
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(
            f"{path} cannot be read as a .npy or .npz file ({reason}); write it again with numpy.savez"
        ) from error
    if not are_images(array.dtype, array.shape):
        raise DataError(f"{path}: images must be {SHAPES}, not {array.dtype} {list(array.shape)}")
    return array


def are_images(dtype: np.dtype, shape: tuple[int, ...]) -> bool:
    """Whether an array of this type and shape is a set of images."""
    return dtype == np.uint8 and (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3)))


@dataclass(frozen=True)
class _Member:
    """One array of a .npz file. start: offset of its values in the unpacked member, in bytes."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int

    @property
    def name(self) -> str:
        return self.info.filename.removesuffix(".npy")

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {list(self.shape)}"


def _from_zip(path: Path, notes: list[str]) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        members = [_header(archive, info) for info in archive.infolist() if info.filename.endswith(".npy")]
        images = [member for member in members if are_images(member.dtype, member.shape)]
        first = [member for member in images if member.name == "arr_0"]
        if len(first or images) != 1:
            arrays = ", ".join(map(str, members)) or "no array"
            count = "several arrays" if images else "no array"
            raise DataError(f"{path} contains {count} of images ({arrays}); save one as arr_0: {SHAPES}")
        chosen = (first or images)[0]
        others = [str(member) for member in members if member is not chosen]
        if others:
            notes.append(f"{path}: the images are {chosen}; these arrays are not read: {', '.join(others)}")
        return _mapped(path, archive, chosen)


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    with archive.open(info) as handle:
        readers: dict[Any, Any] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        version = np.lib.format.read_magic(handle)
        if version not in readers:  # version 3.0 is for arrays with named fields, which are not images
            return _Member(info, (), False, np.dtype(object), 0)
        shape, fortran, dtype = readers[version](handle)
        return _Member(info, shape, fortran, dtype, handle.tell())


def _mapped(path: Path, archive: zipfile.ZipFile, member: _Member) -> np.ndarray:
    """The values of a member, memory-mapped. All its bytes are read once, which verifies its checksum."""
    size, order = math.prod(member.shape), "F" if member.fortran else "C"
    if member.info.file_size - member.start != size or min(member.shape) < 1:
        raise DataError(
            f"{path}: array {member} does not have the {size} bytes that its header states; write the file "
            "again"
        )
    stored = member.info.compress_type == zipfile.ZIP_STORED
    with tempfile.TemporaryFile() as unpacked, archive.open(member.info) as handle:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if not stored and size > free:
            raise DataError(
                f"{path}: {member} needs {size / 2**30:.1f} GiB when unpacked, but {tempfile.gettempdir()} "
                f"has only {free / 2**30:.1f}; save it without compression (numpy.savez), or set TMPDIR"
            )
        while piece := handle.read(PIECE):
            if not stored:
                unpacked.write(piece)
        if not stored:
            unpacked.flush()
            return np.memmap(unpacked, np.uint8, "r", member.start, member.shape, order)  # type: ignore[call-overload]
    return np.memmap(path, np.uint8, "r", _offset(path, member.info) + member.start, member.shape, order)  # type: ignore[call-overload]


def _offset(path: Path, info: zipfile.ZipInfo) -> int:
    """The offset in the file where the bytes of a stored member begin.

    They follow the member's local header. Its extra field can differ in length from the one in the central
    directory, so the local header is read.
    """
    with open(path, "rb") as handle:
        handle.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", handle.read(4))
        return handle.tell() + name + extra
