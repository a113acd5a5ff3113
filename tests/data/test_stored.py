"""Images as packages read them: PIL's convert("RGB") alone is the oracle."""

from __future__ import annotations

import io

import numpy as np
import pytest
from image_files import cut, picture, png, write_parquet
from PIL import Image

from difflab.core.errors import DataError
from difflab.data.stored import open_stored


def test_a_folder_is_read_in_order_in_its_own_sizes_and_whole(tmp_path):
    """No crop, no turn, no white under transparent parts, no scaling of 16 bits; subfolders count."""
    (tmp_path / "a").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (7, 12, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / "b.png")
    Image.fromarray(noise).save(tmp_path / "turned.jpg", exif=turned)
    Image.new("RGBA", (5, 3), (200, 10, 20, 0)).save(tmp_path / "clear.png")
    Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16)).save(tmp_path / "deep.png")
    Image.new("L", (4, 2), 7).save(tmp_path / "a" / "z.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "b.png"}\n')
    images = open_stored(tmp_path, "real", [])
    assert images.keys == ["a/z.png", "b.png", "clear.png", "deep.png", "turned.jpg"] and images.is_folder
    for key, image in zip(images.keys, images, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(tmp_path / key).convert("RGB")), key)
    assert images[4].shape == (7, 12, 3)
    assert images[2][0, 0].tolist() == [200, 10, 20]
    assert images[3][0, :, 0].tolist() == [0, 255, 255, 255]


def test_other_kinds_of_sets(tmp_path):
    draw = np.random.default_rng(0)
    grey, colour = (draw.integers(0, 256, shape, dtype=np.uint8) for shape in ((6, 4, 5), (6, 4, 5, 3)))
    notes: list[str] = []
    as_grey, as_colour = open_stored(grey, "real", notes), open_stored(colour, "real", notes)
    assert len(as_grey) == 6 and not as_grey.is_folder and (as_grey[2] == grey[2][..., None]).all()
    np.testing.assert_array_equal(as_colour[5], colour[5])
    np.savez(tmp_path / "batch.npz", arr_0=colour)
    np.testing.assert_array_equal(open_stored(tmp_path / "batch.npz", "real", notes)[3], colour[3])
    listed = open_stored([Image.fromarray(colour[0]), colour[1], png((3, 2))], "real", notes)
    assert [image.shape for image in listed] == [(4, 5, 3), (4, 5, 3), (2, 3, 3)]
    write_parquet(tmp_path / "set" / "part.parquet", [{"image": {"bytes": png((6, 5)), "path": None}}] * 3)
    assert open_stored(tmp_path / "set", "real", notes)[1].shape == (5, 6, 3)


def test_what_cannot_be_read_is_named(tmp_path):
    picture(tmp_path / "set" / "a.png")
    cut(tmp_path / "set" / "b.png")
    images = open_stored(tmp_path / "set", "generated", [])
    assert len(images) == 2 and images[0].shape == (8, 8, 3)
    with pytest.raises(DataError, match=r"generated: image b.png: cannot be decoded"):
        images[1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"real: .*empty holds no image"):
        open_stored(tmp_path / "empty", "real", [])
    with pytest.raises(DataError, match="does not exist"):
        open_stored(tmp_path / "nope", "real", [])
    with pytest.raises(DataError, match="uint8"):
        open_stored(np.zeros((3, 4, 4)), "real", [])


def test_bytes_are_read_as_their_file_is():
    out = io.BytesIO()
    Image.new("P", (2, 2), 3).save(out, format="GIF")
    stored = open_stored([out.getvalue()], "real", [])[0]
    np.testing.assert_array_equal(stored, np.asarray(Image.open(out).convert("RGB")))
