"""One size for all images, and images that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import cut, folder, picture
from PIL import Image

from difflab.core.errors import DataError
from difflab.data import listing
from difflab.data.decode import look


def test_size_is_asked_for_when_images_differ(tmp_path):
    picture(tmp_path / "1.png", size=(8, 8))
    picture(tmp_path / "2.png", size=(12, 12))
    with pytest.raises(
        DataError,
        match=r"the images have different sizes \(1.png is 8 x 8, 2.png is 12 x 12\).*data.image_size",
    ):
        folder(tmp_path)
    assert folder(tmp_path, image_size=6).read(1).shape == (6, 6, 3)


def test_images_of_one_size_keep_it_if_they_are_not_square(tmp_path):
    for i in range(2):
        picture(tmp_path / f"{i}.png", size=(12, 8))
    source = folder(tmp_path)
    assert source.size == (8, 12) and source.record == (8, 12, 3) == source.read(1).shape
    assert not source.account.count("cropped")
    with Image.open(tmp_path / "1.png") as image:
        assert np.array_equal(source.read(1), np.asarray(image))


def test_a_rectangle_that_cuts_most_of_the_images_off_is_refused_with_a_fitting_one(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png", size=(48, 32))
    with pytest.raises(
        DataError,
        match=r"data.image_size=\[24,16\] is \[H, W\] and cuts off 56% of the area of the images, which are "
        r"typically 48 x 32; use data.image_size=\[16,24\]",
    ):
        folder(tmp_path, image_size=[24, 16])
    assert folder(tmp_path, image_size=[16, 24]).account.parts() == []
    square = folder(tmp_path, image_size=16)
    assert square.size == (16, 16) and square.account.lost_area == pytest.approx(1 / 3)
    wide = folder(tmp_path, image_size=[16, 32])  # from 48 x 24 of 48 x 32
    assert wide.account.count("cropped") == 3 and wide.account.lost_area == pytest.approx(1 / 4)


def test_phone_pictures_that_lie_on_their_side_count_as_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "1.jpg", size=(48, 32), exif=exif)
    picture(tmp_path / "2.png", size=(32, 48))
    source = folder(tmp_path)
    assert source.size == (48, 32) and not source.account.count("cropped")
    assert source.read(0).shape == source.read(1).shape == (48, 32, 3)


def test_unreadable_image_stops_at_once(tmp_path):
    picture(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"this is text")
    with pytest.raises(DataError, match=r"2.png: cannot be decoded: not an image.*data.bad_images=skip"):
        folder(tmp_path)


def test_pixels_that_a_survey_has_decoded_are_those_of_the_file(tmp_path, monkeypatch):
    picture(tmp_path / "1.png", size=(8, 12))
    picture(tmp_path / "2.png", size=(20, 10))
    again = folder(tmp_path, image_size=6)
    skipping = folder(tmp_path, image_size=6, bad_images="skip")
    assert set(skipping.read.decoded) == {0, 1} and not again.read.decoded
    assert all(np.array_equal(skipping.read(i), again.read(i)) for i in range(2))
    monkeypatch.setattr(listing, "KEPT_BYTES", 8 * 12 * 3)  # room for the first image alone
    few = folder(tmp_path, image_size=6, bad_images="skip")
    assert set(few.read.decoded) == {0} and np.array_equal(few.read(1), again.read(1))
    (tmp_path / "0.png").write_bytes(b"this is text")  # positions count it, indices do not
    behind = folder(tmp_path, image_size=6, bad_images="skip")
    assert set(behind.read.decoded) == {1}
    assert all(np.array_equal(behind.read(i), again.read(i)) for i in range(2))


def test_truncated_image_is_named_when_it_is_read(tmp_path):
    picture(tmp_path / "1.png")
    cut(tmp_path / "2.png")
    source = folder(tmp_path)
    assert source.read(0).shape == (8, 8, 3)
    with pytest.raises(DataError, match=r"2.png: cannot be decoded"):
        source.read(1)


def test_bad_images_are_left_out_and_recorded(tmp_path):
    for i in range(3):
        picture(tmp_path / "cat" / f"{i}.png", colour=(i, i, i))
    cut(tmp_path / "cat" / "0.png")
    (tmp_path / "cat" / "1.jpg").write_bytes(b"")
    picture(tmp_path / "cat" / "big.png", size=(100, 100))
    source = folder(tmp_path, bad_images="skip", max_pixels=5000)
    assert source.keys == ["cat/1.png", "cat/2.png"]
    assert [key for key, _ in source.skipped] == ["cat/0.png", "cat/1.jpg", "cat/big.png"]
    assert all(key in reason for key, reason in source.skipped)
    assert source.read(1)[0, 0, 0] == 2


def test_a_class_that_loses_all_images_is_named(tmp_path):
    picture(tmp_path / "cat" / "1.png")
    cut(tmp_path / "dog" / "1.png")
    with pytest.raises(DataError, match="no image of class 'dog' can be read"):
        folder(tmp_path, bad_images="skip")


def test_nothing_left(tmp_path):
    cut(tmp_path / "1.png")
    with pytest.raises(DataError, match="1 cannot be read; the first: "):
        folder(tmp_path, bad_images="skip")


def test_image_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    picture(tmp_path / "1.png", size=(3000, 3000), mode="1", colour=0)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"3000 x 3000 pixels exceed data.max_pixels=1000000"):
        folder(tmp_path, max_pixels=1_000_000)


def test_pillows_own_bomb_limits(tmp_path, monkeypatch):
    """Between Pillow's warning and its error data.max_pixels decides; above the error Pillow does.

    Neither escapes as it is.
    """
    path = picture(tmp_path / "1.png", size=(30, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert look(path, "x", 1000).width == 30
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="x has more pixels than Pillow allows"):
        look(path, "x", 1000)
