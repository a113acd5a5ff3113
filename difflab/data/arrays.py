"""Images in .npy and .npz files, as suites for evaluating generators exchange them: uint8 [n, H, W, 3],
mapped, never unpickled.
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
    """The images of a .npy or .npz file, mapped into memory: uint8 [n, H, W], [n, H, W, 1] or [n, H, W, 3].

    Of several arrays `arr_0` is taken, or the only one of such a shape; the others are named in `notes`. A
    compressed one is unpacked into an unnamed temporary file. Raises DataError that names the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers of Python 2
            if zipfile.is_zipfile(path):
                return _from_zip(path, notes)
            array = np.lib.format.open_memmap(path, mode="r")  # refuses objects
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise nearly every type there is
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(
            f"{path} is no readable .npy or .npz file ({reason}); write it again with numpy.savez"
        ) from error
    if not are_images(array.dtype, array.shape):
        raise DataError(f"{path}: images must be {SHAPES}, not {array.dtype} {list(array.shape)}")
    return array


def are_images(dtype: np.dtype, shape: tuple[int, ...]) -> bool:
    """Whether an array of this kind is a set of images."""
    return dtype == np.uint8 and (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3)))


@dataclass(frozen=True)
class _Member:
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int  # of the values, behind the header

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
            held = ", ".join(map(str, members)) or "no array"
            what = "several arrays of images" if images else "no array of images"
            raise DataError(f"{path} holds {what} ({held}); save one as arr_0: {SHAPES}")
        chosen = (first or images)[0]
        others = [str(member) for member in members if member is not chosen]
        if others:
            notes.append(f"{path}: the images are {chosen}; not read: {', '.join(others)}")
        return _mapped(path, archive, chosen)


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    with archive.open(info) as handle:
        readers: dict[Any, Any] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        version = np.lib.format.read_magic(handle)
        if version not in readers:  # 3.0 is for names of fields: no image
            return _Member(info, (), False, np.dtype(object), 0)
        shape, fortran, dtype = readers[version](handle)
        return _Member(info, shape, fortran, dtype, handle.tell())


def _mapped(path: Path, archive: zipfile.ZipFile, member: _Member) -> np.ndarray:
    """The values of a member. All its bytes pass by once, so that its checksum is verified."""
    size, order = math.prod(member.shape), "F" if member.fortran else "C"
    if member.info.file_size - member.start != size or min(member.shape) < 1:
        raise DataError(
            f"{path}: array {member} does not have the {size} bytes that its header says; write the file "
            "again"
        )
    stored = member.info.compress_type == zipfile.ZIP_STORED
    with tempfile.TemporaryFile() as unpacked, archive.open(member.info) as handle:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if not stored and size > free:
            raise DataError(
                f"{path}: {member} needs {size / 2**30:.1f} GiB unpacked, {tempfile.gettempdir()} has "
                f"{free / 2**30:.1f}; use numpy.savez, or set TMPDIR"
            )
        while piece := handle.read(PIECE):
            if not stored:
                unpacked.write(piece)
        if not stored:
            unpacked.flush()
            return np.memmap(unpacked, np.uint8, "r", member.start, member.shape, order)  # type: ignore[call-overload]
    return np.memmap(path, np.uint8, "r", _offset(path, member.info) + member.start, member.shape, order)  # type: ignore[call-overload]


def _offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin: behind its own header, whose extra field is not that of the
    directory.
    """
    with open(path, "rb") as handle:
        handle.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", handle.read(4))
        return handle.tell() + name + extra
