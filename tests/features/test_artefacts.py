"""The four statistics of artefacts: oracles from Pillow, scipy and loops, and images whose statistics are known."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.special import sici

from difflab.core.errors import MeasureError
from difflab.features.artefacts import STATISTICS, artefacts, banding, blocking, palette, ringing
from difflab.metrics import open_extractor


def of(name: str, *images: np.ndarray) -> np.ndarray:
    """One statistic of uint8 images [H, W] or [H, W, C]."""
    batch = np.stack([image.reshape(*image.shape[:2], -1) for image in images])
    return artefacts(torch.from_numpy(batch))[:, STATISTICS.index(name)].numpy()


def grain(side: int = 64, seed: int = 0, spread: float = 20.0, channels: int = 1) -> np.ndarray:
    """Smooth noise like a photograph's, uint8 [side, side, channels]."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequency[0, 0] = 1
    planes = [
        np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) / frequency).real for _ in range(channels)
    ]
    x = np.stack([plane / plane.std() for plane in planes], -1)
    return (128 + spread * x).round().clip(0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(file))


def quantised(image: np.ndarray, levels: int) -> np.ndarray:
    return (np.round(image / 255 * (levels - 1)) * 255 / (levels - 1)).round().astype(np.uint8)


def step(side: int, profile) -> np.ndarray:
    """Rows that all have the grey levels `profile(pixels from the middle)`, uint8 [side, side]."""
    at = np.arange(side) - side / 2 + 0.5
    return np.tile(profile(at).round().clip(0, 255).astype(np.uint8), (side, 1))


# ---------------------------------------------------------------------------------------------------- palette
def palette_by_loops(image: np.ndarray) -> float:
    shares = []
    for x in np.moveaxis(image.astype(int), 2, 0):
        counted = []
        for i, j in np.ndindex(x.shape):
            near = [
                x[a, b]
                for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1))
                if 0 <= a < len(x) and 0 <= b < len(x[0])
            ]
            if any(x[i, j] != y for y in near) and x.min() < x[i, j] < x.max():
                counted.append(x[i, j] // 8)
        bins = x.max() // 8 - x.min() // 8 + 1
        expected = bins * (1 - (1 - 1 / bins) ** len(counted))
        shares.append(len(set(counted)) / expected if counted else 0)
    return float(np.mean(shares))


@pytest.mark.parametrize("channels", [1, 3])
def test_palette_equals_loops(channels):
    for image in (grain(16, 1, 40, channels), quantised(grain(16, 2, 40, channels), 8)):
        assert of("palette", image)[0] == pytest.approx(palette_by_loops(image), rel=1e-6)


def test_few_levels_are_few_whatever_the_size_and_the_contrast():
    for side, spread in ((16, 40), (128, 40), (64, 15)):
        whole = grain(side, 0, spread)
        full, few = of("palette", whole, quantised(whole, 8))
        assert full > 0.85 and few < 0.5 * full, (side, spread)
    image = grain(64, 3, 50)
    by_levels = of("palette", image, *(quantised(image, n) for n in (16, 8, 4)))
    assert list(by_levels) == sorted(by_levels, reverse=True)


def test_uniform_levels_fill_as_many_bins_as_expected():
    """The formula is the mean number of occupied bins: 1 on average for independent uniform pixels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 8, 8), dtype=np.uint8)
    assert of("palette", *images).mean() == pytest.approx(1, abs=0.02)


def test_clipping_and_flat_areas_do_not_make_a_palette_small():
    image = grain(64, 4, 40)
    clipped = (128 + 2.5 * (image.astype(float) - 128)).clip(0, 255).astype(np.uint8)
    framed = np.full((128, 128, 1), 200, np.uint8)
    framed[32:96, 32:96] = image
    assert np.allclose(of("palette", clipped, image), 1, atol=0.15)
    assert of("palette", framed)[0] == pytest.approx(of("palette", image)[0], abs=0.05)
    assert list(of("palette", np.full((8, 8), 9, np.uint8), np.eye(8, dtype=np.uint8))) == [0, 0]


# ---------------------------------------------------------------------------------------------------- banding
def test_a_ramp_has_no_steps_and_its_few_bits_have_nothing_else():
    ramp = np.tile(np.arange(20, 84, dtype=np.uint8), (64, 1))
    bands = ramp // 8 * 8
    # A step of 8 is in 4 of 8 windows of 5 pixels: those of levels 24 to 72 lie between darkest and lightest.
    windows = 64 * sum(
        20 // 8 * 8 < row[0] < row[-1] < 83 // 8 * 8 for row in (bands[0, i : i + 5] for i in range(60))
    )
    assert of("banding", ramp)[0] == 0
    assert windows > 1000 and of("banding", bands)[0] == pytest.approx(windows / (windows + 1))


def banding_by_loops(image: np.ndarray) -> float:
    steps, ramps = 0, 1
    for x in np.moveaxis(image.astype(int), 2, 0):
        for line in (*x, *x.T):
            for i in range(len(line) - 4):
                part = line[i : i + 5]
                d = np.diff(part)
                monotone = (d >= 0).all() or (d <= 0).all()
                inside = x.min() < part.min() and part.max() < x.max()
                if monotone and inside and 4 <= abs(part[-1] - part[0]) <= 48:
                    ramps += 1
                    steps += (d != 0).sum() == 1
    return steps / ramps


@pytest.mark.parametrize("channels", [1, 3])
def test_banding_equals_loops(channels):
    for image in (grain(24, 1, 30, channels), quantised(grain(24, 2, 30, channels), 32)):
        assert of("banding", image)[0] == pytest.approx(banding_by_loops(image), rel=1e-6)


def test_five_bits_band_what_eight_bits_do_not():
    smooth = np.asarray(Image.fromarray(grain(64, 5, 40)[..., 0]).filter(ImageFilter.GaussianBlur(2)))
    eight, five = of("banding", smooth, quantised(smooth, 32))
    assert eight < 0.01 and five > 0.3


# --------------------------------------------------------------------------------------------------- blocking
def test_blocks_of_one_level_each_have_the_value_of_the_formula():
    """All differences are on the grid, at 8, 16, 24 of 31 borders: (d - 0) / (3 d / 31) per direction.

    Blocks of 0 and d in stripes differ in one direction only.
    """
    stripes = np.tile((np.arange(32) // 8 % 2 * 60).astype(np.uint8), (32, 1))
    excess = 60 - 0  # the borders beside the grid are odd, and do not count as others
    assert of("blocking", stripes)[0] == pytest.approx(excess / (60 * 3 / 31), rel=1e-6)
    shifted = np.roll(stripes, 4, 1)  # borders at 4, 12, 20, 28: 4 of the 12 other even ones
    assert of("blocking", shifted)[0] == pytest.approx(-(60 * 4 / 12) / (60 * 4 / 31), rel=1e-6)


def test_jpeg_of_low_quality_blocks_and_other_changes_do_not():
    images = [grain(64, seed, 30)[..., 0] for seed in range(12)]
    real = of("blocking", *images)
    by_quality = [of("blocking", *(jpeg(image, q) for image in images)).mean() for q in (95, 50, 30, 10)]
    assert by_quality == sorted(by_quality) and by_quality[-1] > real.mean() + 10 * real.std()
    for change in (ImageFilter.GaussianBlur(1), ImageFilter.UnsharpMask(1, 300, 0)):
        changed = of("blocking", *(np.asarray(Image.fromarray(image).filter(change)) for image in images))
        assert abs(changed.mean() - real.mean()) < 2 * real.std()
    twofold = [image.repeat(2, 0).repeat(2, 1)[:64, :64] for image in images]  # has a period, but of 2
    assert abs(of("blocking", *twofold).mean()) < 4 * real.std()


# ---------------------------------------------------------------------------------------------------- ringing
@pytest.mark.parametrize("period", [4, 6])
def test_a_truncated_series_rings_as_gibbs_says(period):
    """A step without frequencies above 1 / period is a sine integral around the edge."""
    gibbs = lambda t: 120 * (0.5 + sici(2 * np.pi * t / period)[0] / np.pi) + 60  # noqa: E731
    image = step(64, gibbs)
    row = image[0].astype(float)
    top = 32 + int(row[32:40].argmax())
    start = {4: 2, 6: 3}[period]
    height = row[top] - row[24:32].min()  # from the undershoot before the edge
    swing = (row[top + 2 * start] - row[top + start]) / height
    assert swing > 0.04
    assert of("ringing", image)[0] == pytest.approx(swing, abs=0.01)


def test_neither_blur_nor_sharpening_of_an_edge_rings():
    sharp = step(64, lambda t: 60 + 120 * (t > 0))
    soft = Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(1.5))
    halo = soft.filter(ImageFilter.UnsharpMask(2, 200, 0))
    assert np.asarray(halo).max() > 200  # an overshoot of a fifth of the step
    assert of("ringing", sharp, np.asarray(soft), np.asarray(halo)).max() < 0.005  # falls back to the level


def test_noise_beside_edges_cancels_and_one_edge_says_little():
    rng = np.random.default_rng(0)
    noisy = [
        (step(64, lambda t: 60 + 120 * (t > 0)) + rng.normal(0, 4, (64, 64))).round().astype(np.uint8)
        for _ in range(20)
    ]
    assert abs(np.median(of("ringing", *noisy))) < 0.01
    one = np.full((24, 24), 60, np.uint8)
    one[4, 4:] = [180, 190, 170, 180, 195, 180, 180, *[180] * 13]
    assert abs(of("ringing", one)[0]) < 0.1


# -------------------------------------------------------------------------------------------------- all of them
def test_functions_and_columns_agree_and_batches_do_not_matter():
    images = torch.from_numpy(np.stack([grain(32, seed, 30, 3) for seed in range(5)]))
    levels, light = (
        images.permute(0, 3, 1, 2).short(),
        images.double() @ torch.tensor([0.299, 0.587, 0.114]).double(),
    )
    columns = torch.stack([palette(levels), banding(levels), blocking(light), ringing(light)], 1).float()
    assert torch.allclose(artefacts(images), columns, atol=1e-5)
    assert torch.equal(artefacts(images[3:]), artefacts(images)[3:])
    extractor = open_extractor("artefacts", device="meta")  # it stays on the CPU, whatever the device
    assert torch.equal(extractor(images), artefacts(images))
    assert (
        extractor.dim == 4
        and extractor.statistics == "artefacts"
        and open_extractor("pixels").statistics is None
    )


def test_grey_is_the_same_with_one_channel_and_three():
    image = grain(32, 6, 30)
    assert torch.allclose(
        *(artefacts(torch.from_numpy(x[None])) for x in (image, image.repeat(3, 2))), atol=1e-6
    )


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (1, 8, 40, 3), (1, 9, 9, 1), (0, 8, 8, 3)])
def test_small_and_flat_images_have_finite_statistics(shape):
    noise = torch.randint(0, 256, shape, dtype=torch.uint8)
    for images in (noise, torch.zeros_like(noise), torch.full_like(noise, 255)):
        assert artefacts(images).shape == (shape[0], 4) and artefacts(images).isfinite().all()


@pytest.mark.parametrize("images", [torch.zeros(1, 7, 8, 1, dtype=torch.uint8), torch.zeros(1, 8, 8, 1)])
def test_other_input_is_refused(images):
    with pytest.raises(MeasureError, match="artefacts reads uint8 images"):
        artefacts(images)
