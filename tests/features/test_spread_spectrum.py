from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm

from difflab.core.errors import MeasureError
from difflab.features.spread_spectrum import (
    BIT_OF_CHIP,
    CHIPS,
    agreements,
    bit_shares,
    cell,
    detected,
    least_count,
    marked,
    pattern,
    upper_tail,
    z_of,
)

RNG = np.random.default_rng(0)


def smooth(n: int, height: int, width: int, channels: int) -> np.ndarray:
    """Images whose neighbours are alike, so that the fine pattern is not hidden."""
    waves = np.sin(RNG.normal(size=(n, 1, 1, channels)) + np.arange(height)[None, :, None, None] / 9)
    return (128 + 90 * waves + np.zeros((1, 1, width, 1)) + RNG.normal(size=(n, height, width, 1))).astype(
        np.uint8
    )


def read(images: np.ndarray, key: int, chip: int = 1) -> torch.Tensor:
    return agreements(torch.from_numpy(images), key, chip)


@pytest.mark.parametrize("shape", [(3, 8, 8, 1), (3, 32, 32, 3), (2, 40, 33, 1)])
def test_the_mark_is_read_with_its_key_and_with_no_other(shape):
    images = smooth(*shape)
    with_mark = read(marked(images, 5, 8), 5)
    assert detected(with_mark).all() and bit_shares(with_mark).mean() > 0.85
    other = read(marked(images, 5, 8), 6)
    assert abs(float(bit_shares(other).mean()) - 0.5) < 0.2 and not detected(other).all()


def test_marking_changes_every_channel_by_the_strength_and_clips():
    images = smooth(2, 20, 20, 3)
    change = marked(images, 1, 2).astype(int) - images
    assert set(np.unique(change)) == {-2, 2}
    assert (change == 2 * pattern(1, 20, 20)[None, :, :, None]).all()
    assert set(np.unique(marked(np.zeros((1, 8, 8, 1), np.uint8), 1, 3))) == {0, 3}


def test_the_cell_repeats_and_a_chip_covers_a_square():
    assert np.array_equal(pattern(3, 40, 40)[16:32, 16:32], cell(3))
    assert np.array_equal(pattern(3, 32, 32, chip=2)[::2, 1::2], cell(3))
    images = smooth(1, 64, 64, 3)
    assert detected(read(marked(images, 3, 3, chip=4), 3, chip=4)).all()
    assert not detected(read(marked(images, 3, 3, chip=4), 3)).any()


def test_every_bit_has_as_many_chips_in_every_block():
    assert (np.bincount(BIT_OF_CHIP) == 8).all()
    assert (np.bincount(BIT_OF_CHIP.reshape(16, 16)[:8, :8].ravel()) == 2).all()


def test_residuals_equal_a_convolution_with_repeated_edges():
    from scipy.ndimage import laplace

    images = RNG.integers(0, 256, (4, 16, 16, 1), dtype=np.uint8)
    expected = [np.sign(-laplace(x[..., 0].astype(int), mode="nearest") * cell(2)).ravel() for x in images]
    assert np.array_equal(read(images, 2).numpy(), np.array(expected))


def test_tails_and_thresholds_are_those_of_scipy():
    for chips in (1, 63, 64, 256):
        for count in (0, chips // 2, chips):
            assert math.isclose(upper_tail(count, chips), binom.sf(count - 1, chips, 0.5), rel_tol=1e-9)
        for rate in (0.5, 0.01, 1e-6):
            least = least_count(chips, rate)
            assert binom.sf(least - 1, chips, 0.5) <= rate
            assert least == 0 or binom.sf(least - 2, chips, 0.5) > rate
    assert math.isclose(norm.sf(z_of(160, 256)), binom.sf(159, 256, 0.5), rel_tol=1e-9)
    assert z_of(100, 256) == -z_of(156, 256) and z_of(128, 256) == z_of(0, 0) == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_without_a_mark_the_law_over_keys_is_binomial(channels):
    """One fixed set of images with strong content, 4,000 random keys."""
    images = np.kron(RNG.integers(0, 256, (5, 4, 4, channels), dtype=np.uint8), np.ones((1, 4, 4, 1))).astype(
        np.uint8
    )
    images = np.clip(images + RNG.integers(0, 3, images.shape), 0, 255).astype(np.uint8)
    keys = range(4000)
    signs = read(images, 0) * torch.from_numpy(cell(0)).flatten()
    agreeing = torch.stack([signs * torch.from_numpy(cell(key)).flatten() for key in keys])
    assert torch.equal(agreeing[3], read(images, 3))
    chips = (agreeing != 0).sum(2)
    assert (chips == chips[0]).all()  # which chips say nothing does not depend on the key
    counts = (agreeing > 0).sum(2).numpy()
    for image, n in enumerate(chips[0].tolist()):
        # Pearson's statistic of the counts, in cells of 4 counts with 20 or more expected keys
        edges = np.arange(0, n + 5, 4)
        expected = len(keys) * np.diff(binom.cdf(edges - 1, n, 0.5))
        seen = np.histogram(counts[:, image], edges)[0]
        whole = expected >= 20
        statistic = ((seen - expected)[whole] ** 2 / expected[whole]).sum()
        assert statistic < whole.sum() + 5 * (2 * whole.sum()) ** 0.5
    assert detected(agreeing.flatten(0, 1)).double().mean() < 0.01 + 4 * (0.01 / 4000) ** 0.5
    assert abs(float(bit_shares(agreeing.flatten(0, 1)).mean()) - 0.5) < 0.005


def test_images_too_small_for_the_message_are_refused():
    with pytest.raises(MeasureError, match=r"32 bits needs images of 8 or more pixels a side .* got 7 x 9"):
        read(smooth(1, 7, 9, 1), 0)
    with pytest.raises(MeasureError, match="needs images of 16 or more pixels a side at chip=2"):
        read(smooth(1, 15, 32, 1), 0, chip=2)


def test_an_image_of_one_colour_says_nothing():
    flat = read(np.full((2, 9, 9, 3), 70, np.uint8), 4)
    assert not flat.any() and flat.shape == (2, CHIPS)
    assert not detected(flat).any() and bit_shares(flat).tolist() == [0.5, 0.5]
