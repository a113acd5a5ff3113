from __future__ import annotations

import numpy as np
from PIL import Image
from probes import SIDE

from difflab.plots.sheet import CELL, GAP, enlarge, sheet


def test_large_images_are_not_enlarged():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert (np.asarray(enlarge(image)) == image).all()
    assert enlarge(image[:20, :20]).size == (60, 60)


def ink(picture: Image.Image, box: tuple[int, int, int, int]) -> bool:
    return bool((np.asarray(picture.crop(box)) < 200).any())


def test_long_names_stand_upright_above_their_column_and_short_ones_lie():
    image = np.full((SIDE, SIDE, 1), 255, np.uint8)
    rows = [("", [image] * 3)]
    short, long = sheet(rows, ["cat", "", "dog"]), sheet(rows, ["Animals & Nature", "", "dog"])
    assert 60 < long.height - short.height < 140 and long.width == short.width
    left = 16
    for picture, reach in ((short, 16), (long, 100)):
        top = picture.height - 12 - CELL - GAP
        assert ink(
            picture, (left, top - reach, left + CELL, top)
        )  # the first and the third have a name, the second none
        assert not ink(picture, (left + CELL + GAP, 0, left + 2 * CELL + GAP, top))
        assert ink(picture, (left + 2 * (CELL + GAP), top - 20, left + 3 * CELL + 2 * GAP, top))
    assert ink(
        long, (left, long.height - 12 - CELL - GAP - 110, left + CELL, long.height - 12 - CELL - GAP - 90)
    )


def test_names_keep_to_their_column():
    image = np.full((SIDE, SIDE, 1), 255, np.uint8)
    for name in ("w" * 300, "wwwww", "MMMM"):
        picture = sheet([("", [image] * 3)], ["", name, ""])
        for column in (0, 2):
            left = 16 + column * (CELL + GAP)
            assert not ink(picture, (left, 0, left + CELL, picture.height))


def test_row_labels_and_titles_are_never_cut():
    image = np.full((SIDE, SIDE, 1), 255, np.uint8)
    picture = sheet(
        [("generation 1000000", [image])], title="a title that is much wider than the single image below it"
    )
    margin = np.asarray(picture)
    assert (margin[:, :4] == 255).all() and (margin[:, -4:] == 255).all() and picture.width > 300
