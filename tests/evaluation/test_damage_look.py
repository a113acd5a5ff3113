"""Damages to how images look: each is measured by something that the damage does not use."""

from __future__ import annotations

import numpy as np
import pytest
from damaged import DEGREES, changed, n_colours, real_images, sharpness

from difflab.core.errors import DataError
from difflab.evaluation.damage_look import n_levels
from difflab.evaluation.simulate import simulate


@pytest.fixture(scope="module", params=["digits", "emoji"])
def pool(request) -> tuple[np.ndarray, np.ndarray]:
    return real_images(request.param)


@pytest.fixture(scope="module")
def emoji() -> tuple[np.ndarray, np.ndarray]:
    return real_images("emoji")


def one(name: str, image: np.ndarray, degree: float) -> np.ndarray:
    """One image [H, W, C], changed."""
    return simulate(name, image[None], np.zeros(1, np.int64), degree, 1)[0][0]


def test_blur_and_sharpening_are_ordered(pool):
    plain = sharpness(changed("nothing", pool, 1)[0])
    blurred = [sharpness(changed("blurred", pool, d)[0]) for d in DEGREES]
    sharpened = [sharpness(changed("sharpened", pool, d)[0]) for d in DEGREES]
    assert blurred == sorted(blurred, reverse=True) and blurred[-1] < 0.9 * plain
    assert sharpened == sorted(sharpened) and sharpened[-1] > 1.05 * plain


def test_saturation_is_ordered_and_grey_images_have_none(pool):
    if pool[0].shape[3] == 1:
        with pytest.raises(DataError, match="colour"):
            changed("saturated", pool, 0.5)
        return
    colour = [float(np.ptp(changed("saturated", pool, d)[0].astype(int), axis=3).mean()) for d in DEGREES]
    assert colour == sorted(colour)


def test_ringing_oscillates_beside_an_edge_and_blur_does_not():
    edge = np.full((32, 32, 1), 64, np.uint8)
    edge[:, 16:] = 192
    for degree in (0.6, 1.0):
        profile = one("ringing", edge, degree)[16, :, 0].astype(int)
        assert profile.max() > 192 + 0.05 * 128 and profile.min() < 64 - 0.05 * 128  # overshoot on both sides
        turns = np.diff(np.sign(np.diff(profile[:14])))
        assert np.count_nonzero(turns) >= 3
    blurred = one("blurred", edge, 0.6)[16, :, 0].astype(int)
    assert (np.diff(blurred) >= 0).all() and blurred.max() <= 192


def test_ringing_keeps_slow_changes_and_removes_the_fastest():
    x = np.arange(32)
    for half_waves, left in ((2, 1.0), (8, 1.0), (24, 0.0), (30, 0.0)):  # 32 at most in 32 pixels
        wave = (128 + 60 * np.cos(np.pi * half_waves * (x + 0.5) / 32)).round().astype(np.uint8)
        image = np.broadcast_to(wave[None, :, None], (32, 32, 1)).copy()
        assert one("ringing", image, 0.6).std() == pytest.approx(left * image.std(), abs=1)


def blockiness(images: np.ndarray) -> float:
    """Mean step across the borders of 8 x 8 blocks over the mean step inside of blocks."""
    steps = np.abs(np.diff(images.astype(float), axis=2)).mean((0, 1, 3))
    border = np.arange(len(steps)) % 8 == 7
    return float(steps[border].mean() / steps[~border].mean())


def test_blocks_show_by_degree(emoji):
    plain = blockiness(changed("nothing", emoji, 1)[0])
    by_degree = [blockiness(changed("blocked", emoji, degree)[0]) for degree in DEGREES]
    assert plain < 1.05 and by_degree[0] > 1.1 * plain and by_degree[-1] > 2 * plain
    assert by_degree == sorted(by_degree)
    assert blockiness(changed("reencoded", emoji, 1)[0]) < by_degree[0]


def test_levels_fall_from_32_to_4():
    assert n_levels(1e-9) == 32 and [n_levels(degree) for degree in DEGREES] == [21, 14, 9, 6, 4]


def test_posterised_images_have_few_colours_each_and_many_together(pool):
    for degree in DEGREES:
        images, _ = changed("posterised", pool, degree)
        assert max(n_colours(image) for image in images) <= n_levels(degree)
    if images.shape[3] == 3:
        assert n_colours(images.reshape(-1, 1, 3)) > 100 * n_levels(1.0)


def test_posterised_images_are_near_to_what_they_were(emoji):
    images, _ = emoji
    for degree, most in ((0.2, 6), (1.0, 25)):
        same = np.stack([one("posterised", image, degree) for image in images[:20]])
        assert 0 < np.abs(same.astype(int) - images[:20]).mean() < most


def test_banded_channels_have_equal_steps_that_all_images_share(pool):
    for degree in DEGREES:
        images, _ = changed("banded", pool, degree)
        levels = np.unique(images).astype(int)
        assert len(levels) <= n_levels(degree) and (levels[0], levels[-1]) == (0, 255)
        grid = np.linspace(0, 255, n_levels(degree))
        assert np.abs(levels[:, None] - grid).min(1).max() <= 0.5


def test_a_smooth_gradient_becomes_steps():
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (16, 64, 3)).copy()
    for degree, levels in ((0.6, 9), (1.0, 4)):
        profile = one("banded", ramp, degree)[0, :, 0].astype(int)
        steps = np.diff(profile)
        assert np.count_nonzero(steps) == levels - 1 and steps[steps > 0].min() > 3 * 4


@pytest.mark.parametrize("name", ["ringing", "blocked"])
def test_small_images_cannot_ring_or_show_blocks(name):
    with pytest.raises(DataError, match=f"{name} needs images of at least 16 pixels a side, these have 8"):
        one(name, np.zeros((8, 8, 1), np.uint8), 1.0)
