"""Sizes of images: squares and rectangles, crops of an aspect ratio."""

from __future__ import annotations

import pytest

from difflab.core.size import as_setting, crop_of, in_words, lost_share, setting_text, size_of


@pytest.mark.parametrize(
    ("value", "size"), [(4, (4, 4)), (4096, (4096, 4096)), ([16, 24], (16, 24)), ((24, 16), (24, 16))]
)
def test_a_size_is_a_side_or_height_and_width(value, size):
    assert size_of(value) == size
    assert size_of(as_setting(size)) == size


@pytest.mark.parametrize(
    "value", [0, 3, 4097, -8, True, "8", 8.0, None, [], [8], [8, 8, 3], [8, 0], [8, "8"], [8, True], {8: 8}]
)
def test_other_values_are_no_sizes(value):
    with pytest.raises(
        ValueError, match=r"one number of pixels for a square, or \[H, W\], each from 4 to 4096"
    ):
        size_of(value)


def test_a_size_is_named_as_it_is_typed_and_as_width_x_height():
    assert setting_text((16, 24)) == "[16,24]" and setting_text((16, 16)) == "16"
    assert in_words((16, 24)) == "24 x 16 px" and in_words((16, 16)) == "16 px"


@pytest.mark.parametrize("height", [1, 7, 48, 333])
@pytest.mark.parametrize("width", [1, 9, 48, 500])
def test_a_crop_is_inside_the_image_and_as_large_as_its_aspect_ratio_allows(height, width):
    for aspect in [(8, 8), (8, 12), (12, 8), (64, 256)]:
        h, w = crop_of(height, width, aspect)
        assert 1 <= h <= height and 1 <= w <= width and (h == height or w == width)
        exact = min(height / aspect[0], width / aspect[1])
        assert abs(h - max(1, exact * aspect[0])) <= 0.5 and abs(w - max(1, exact * aspect[1])) <= 0.5
        assert lost_share(height, width, aspect) == pytest.approx(1 - h * w / (height * width))
    assert crop_of(height, width, (32, 32)) == (min(height, width),) * 2
