from __future__ import annotations

import numpy as np
from pictures import opened

from difflab.report.data_uri import EXACT, SIDES, encoder, uri


def test_small_images_are_kept_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    for shape in ((8, 8, 1), (32, 32, 3), (EXACT, EXACT, 3)):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        assert (np.asarray(opened(uri(image))).reshape(shape) == image).all()


def test_large_images_are_made_smaller_and_keep_their_shape() -> None:
    picture = opened(uri(np.full((128, 256, 3), 90, np.uint8), 128))
    assert picture.size == (128, 64) and picture.format == "WEBP"
    assert abs(int(np.asarray(picture)[10, 10, 0]) - 90) <= 2


def test_as_large_as_the_budget_allows() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    cost = {side: len(uri(noise, side)) for side in SIDES}
    for side in SIDES[:-1]:
        encode, room = encoder([noise], 10, 10 * cost[side])
        assert max(opened(encode(noise)).size) == side and room == 10
    encode, room = encoder([noise], 10, 4 * cost[SIDES[-1]])
    assert max(opened(encode(noise)).size) == SIDES[-1] and room == 4, (
        "the smallest is taken when nothing fits, and some are left out"
    )
    assert encoder([], 10) == (uri, 10)


def test_small_images_are_exact_only_while_there_is_room() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (EXACT, EXACT, 3), dtype=np.uint8)
    exact, small = len(uri(noise)), len(uri(noise, exact=False))
    assert small < exact / 2
    for budget, kind, fit in ((10 * exact, "PNG", 10), (9 * exact, "WEBP", 10), (7 * small, "WEBP", 7)):
        encode, room = encoder([noise], 10, budget)
        picture = opened(encode(noise))
        assert (picture.format, picture.size, room) == (kind, (EXACT, EXACT), fit)
