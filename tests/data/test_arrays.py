"""Images in .npy and .npz files: which array is read, that it is mapped, and that nothing is unpickled."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from commands import difflab
from pictures import folder as pictures_in
from pictures import pictures

from difflab.core.errors import DataError
from difflab.data.arrays import read_arrays
from difflab.data.image_sets import open_sides
from difflab.evaluation.compare import compare

IMAGES = np.stack([np.asarray(picture) for picture in pictures(40, 8)])
FEW = {"extractors": ["pixels"], "metrics": ["fd"], "resamples": 0}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_images_of_a_sampling_suite_are_compared_as_they_are(save, tmp_path):
    save(tmp_path / "samples.npz", IMAGES, np.arange(40))
    np.save(tmp_path / "samples.npy", IMAGES)
    real = np.stack([np.asarray(picture) for picture in pictures(80, 8, 1)])
    wanted = compare(real, IMAGES, **FEW)
    found = compare(real, tmp_path / "samples.npz", **FEW)
    assert (
        found.rows
        == wanted.rows
        == compare(str(real_folder(tmp_path)), str(tmp_path / "samples.npy"), **FEW).rows
    )
    assert any(
        "the images are arr_0 uint8 [40, 8, 8, 3]; these arrays are not read: arr_1 int64 [40]" in note
        for note in found.notes
    )


def real_folder(tmp_path):
    return pictures_in(tmp_path / "real", 80, 8, 1)


def test_they_are_mapped_not_loaded(tmp_path):
    np.savez(tmp_path / "plain.npz", IMAGES)
    np.savez_compressed(tmp_path / "packed.npz", IMAGES)
    np.save(tmp_path / "a.npy", IMAGES)
    for name in ("plain.npz", "packed.npz", "a.npy"):
        images = read_arrays(tmp_path / name, [])
        assert isinstance(images, np.memmap) and np.array_equal(images, IMAGES)


@pytest.mark.parametrize(
    ("arrays", "shape"),
    [
        ({"images": IMAGES, "labels": np.arange(40)}, (40, 8, 8, 3)),
        ({"x": IMAGES[..., 0], "mask": np.zeros((40, 8, 8), bool)}, (40, 8, 8)),
        ({"arr_0": IMAGES[:3], "other": IMAGES}, (3, 8, 8, 3)),
        ({"fortran": np.asfortranarray(IMAGES), "features": np.zeros((40, 9))}, (40, 8, 8, 3)),
    ],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_only_images_are_found_by_their_shape(save, arrays, shape, tmp_path):
    save(tmp_path / "a.npz", **arrays)
    notes = []
    images = read_arrays(tmp_path / "a.npz", notes)
    first = next(iter(arrays.values()))
    assert images.shape == shape and np.array_equal(images, first) and len(notes) == 1


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": IMAGES, "b": IMAGES}, r"several arrays of images \(a uint8 .*, b uint8"),
        (
            {"mu": np.zeros(9), "sigma": np.zeros((9, 9))},
            r"no array of images \(mu float64 \[9\], sigma float64 \[9, 9\]\)",
        ),
        ({"a": IMAGES.astype(np.float32)}, "no array of images"),
        ({"a": IMAGES.transpose(0, 3, 1, 2)[:, :2]}, "no array of images"),
        ({"a": IMAGES[:0]}, "does not have"),
        ({}, "no array"),
    ],
)
def test_what_is_no_set_of_images_is_listed(arrays, said, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=rf"a.npz.*{said}"):
        read_arrays(tmp_path / "a.npz", [])


class Trap:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "pickle.npy"])
def test_nothing_is_unpickled(name, tmp_path):
    trap = np.array([Trap()], dtype=object)
    if name == "pickle.npy":
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    elif name == "a.npy":
        np.save(tmp_path / name, trap, allow_pickle=True)
    else:
        np.savez(tmp_path / name, arr_0=trap)
    with pytest.raises(DataError, match=r"cannot be read as a .npy or .npz file|contains no array of images"):
        read_arrays(tmp_path / name, [])


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_pixel_and_a_header_that_promises_more_are_found(compression, tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive,
        archive.open("arr_0.npy", "w") as member,
    ):
        np.lib.format.write_array_header_1_0(
            member, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 512, 512, 3)}
        )
        member.write(bytes(100))
    with pytest.raises(DataError, match="bytes that its header states"):
        read_arrays(tmp_path / "a.npz", [])
    np.savez(tmp_path / "b.npz", IMAGES)
    raw = bytearray((tmp_path / "b.npz").read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "b.npz").write_bytes(raw)
    with pytest.raises(DataError, match="Bad CRC-32"):
        read_arrays(tmp_path / "b.npz", [])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(4, 8, 8, 3, dtype=torch.bfloat16), "cannot be converted to an array"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), r"not uint8 \[4, 3, 8, 8\]"),
        ({"a": 1}, "not object"),
        ([np.zeros((8, 8, 3))], "image 0 must be uint8"),
        ([None], "a list must contain PIL images.*not NoneType"),
        ([b"no image"] * 2, "2 of 2|cannot be decoded"),
    ],
)
def test_other_things_are_refused_by_name(given, said):
    with pytest.raises(DataError, match=said):
        open_sides({"real": given}, None, 0.0, [])


def test_the_command(tmp_path):
    np.savez(tmp_path / "fake.npz", IMAGES, np.arange(40))
    told = difflab(
        "compare",
        real_folder(tmp_path),
        tmp_path / "fake.npz",
        "--extractors",
        "pixels",
        "--metrics",
        "fd",
        "--resamples",
        "0",
    )
    assert told.returncode == 0 and "these arrays are not read: arr_1" in told.stderr, told.stderr
