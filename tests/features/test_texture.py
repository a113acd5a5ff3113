"""The eight statistics: oracles from scikit-image, scipy and numpy, and images whose statistics are known."""

import math
import zlib

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from skimage.color import rgb2hsv
from skimage.measure import shannon_entropy
from torch import nn

from difflab.core.errors import MeasureError
from difflab.features.texture import STATISTICS, texture
from difflab.metrics import open_extractor


def images(n, size=16, channels=3, seed=0):
    """Coloured noise with smooth parts, so that no statistic is degenerate."""
    draw = torch.Generator().manual_seed(seed)
    size = size if isinstance(size, tuple) else (size, size)
    coarse = nn.functional.interpolate(
        torch.rand(n, channels, 4, 4, generator=draw), size, mode="bilinear", align_corners=False
    )
    noise = torch.rand(n, channels, *size, generator=draw) * torch.rand(n, 1, 1, 1, generator=draw)
    return ((coarse + noise) / 2 * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def noise_of_slope(n, size, slope, seed=0):
    """Periodic noise whose power falls as frequency^slope, rounded to uint8."""
    draw = torch.Generator().manual_seed(seed)
    radius = torch.hypot(torch.fft.fftfreq(size).unsqueeze(1), torch.fft.fftfreq(size))
    radius[0, 0] = 1
    x = torch.fft.ifft2(
        torch.fft.fft2(torch.randn(n, size, size, generator=draw)) * radius ** (slope / 2)
    ).real
    return (x / x.std((1, 2), keepdim=True) * 40 + 128).round().clamp(0, 255).to(torch.uint8).unsqueeze(3)


def column(x, name):
    return texture(x)[:, STATISTICS.index(name)].double()


def by_numpy(image):
    """All eight of one image uint8 [H, W, C], written again from their definitions."""
    x, (height, width, channels) = image.astype(np.float64), image.shape
    grey = x[..., 0] if channels == 1 else 0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2]
    colourfulness = saturation = 0.0
    if channels == 3:
        rg, yb = x[..., 0] - x[..., 1], (x[..., 0] + x[..., 1]) / 2 - x[..., 2]
        colourfulness = math.hypot(rg.std(), yb.std()) + 0.3 * math.hypot(rg.mean(), yb.mean())
        saturation = rgb2hsv(image)[..., 1].mean()
    laplacian = ndimage.laplace(grey / 255)[1:-1, 1:-1]
    hann = lambda n: np.sin(np.pi * np.arange(n) / n) ** 2  # noqa: E731
    window = np.outer(hann(height), hann(width))
    power = np.abs(np.fft.fft2((grey - np.average(grey, weights=window)) * window)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij"))
    rings = [np.round(radius * min(height, width)) == k for k in range(2, min(height, width) // 2 + 1)]
    noise = (window**2).sum() / 12
    slope = stats.linregress(
        [math.log(radius[r].mean()) for r in rings], [math.log(max(power[r].mean(), noise)) for r in rings]
    ).slope
    left = np.diff(image, axis=1, prepend=np.zeros((height, 1, channels), dtype=np.uint8))
    levels = np.floor(np.round(grey) / 16)
    blocks = [levels[i : i + 8, j : j + 8] for i in range(0, height - 7, 8) for j in range(0, width - 7, 8)]
    return [
        colourfulness,
        saturation,
        (grey / 255).std(),
        laplacian.var(),
        slope,
        power[radius > 0.25].sum() / power.sum(),
        len(zlib.compress(left.tobytes(), 6)) * 8 / (height * width),
        np.mean([shannon_entropy(b) for b in blocks]),
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, (11, 17), 32])
def test_equals_scikit_image_scipy_and_numpy(size, channels):
    x = images(6, size, channels)
    found = texture(x)
    assert found.shape == (6, 8) and found.dtype == torch.float32
    np.testing.assert_allclose(found, [by_numpy(image) for image in x.numpy()], rtol=1e-4, atol=1e-6)


def test_a_constant_image_has_numbers_and_they_are_zero():
    for value in (0, 7, 255):
        found = dict(
            zip(
                STATISTICS,
                texture(torch.full((1, 24, 24, 3), value, dtype=torch.uint8))[0].tolist(),
                strict=True,
            )
        )
        assert found.pop("bits_per_pixel") < 1
        assert all(abs(x) < 1e-9 for x in found.values()), found


def test_one_colour_alone():
    red = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    red[..., 0] = 255
    assert column(red, "saturation") == 1
    assert column(red, "colourfulness").item() == pytest.approx(0.3 * math.hypot(255, 127.5), rel=1e-6)
    assert column(red, "contrast").item() == pytest.approx(0, abs=1e-6)


def test_a_checkerboard_is_all_high_frequency_and_sharp():
    board = (torch.arange(16).unsqueeze(1) + torch.arange(16)) % 2
    x = (board * 255).to(torch.uint8).view(1, 16, 16, 1)
    assert column(x, "high_frequency").item() == pytest.approx(1, abs=1e-6)
    assert column(x, "contrast") == 0.5 and column(x, "sharpness") == 16  # the Laplacian is 4 and -4 in turn
    assert column(x, "local_entropy") == 1  # two levels equally often


def test_a_wave_of_low_frequency_has_no_high_ones():
    wave = (torch.cos(2 * math.pi * 3 * torch.arange(64) / 64) * 100 + 128).round().to(torch.uint8)
    x = wave.expand(64, 64).reshape(1, 64, 64, 1)
    assert column(x, "high_frequency") < 1e-4 < column(x.roll(1, 2), "contrast")


@pytest.mark.parametrize("slope", [0, -1, -2])
def test_the_slope_of_noise_is_the_one_it_was_made_with(slope):
    found = column(noise_of_slope(60, 64, slope), "spectral_slope")
    assert abs(found.mean() - slope) < 0.05 + 4 * found.std() / 60**0.5 and found.std() < 0.2


def test_white_noise_has_its_share_of_area_in_high_frequencies():
    assert column(noise_of_slope(60, 64, 0), "high_frequency").mean().item() == pytest.approx(
        1 - math.pi / 16, abs=0.01
    )


def test_noise_cannot_be_compressed_and_a_ramp_can():
    noise = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    ramp = (torch.arange(64) * 3).to(torch.uint8).view(1, 1, 64, 1).expand(1, 64, 64, 3)
    assert 24 <= column(noise, "bits_per_pixel") < 24.2 and column(ramp, "bits_per_pixel") < 0.5
    # Of at most 4 bits; 64 pixels over 16 levels fall short of it.
    assert column(noise[..., :1], "local_entropy") > 3.5


def test_statistics_do_not_depend_on_company_or_order():
    x = images(70, 64)
    x = torch.cat([x[:7], x[3:4], x[7:]])
    found = texture(x)
    torch.testing.assert_close(found[3], found[7])
    torch.testing.assert_close(texture(x[50:51])[0], found[50])
    assert texture(x[:0]).shape == (0, 8)


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(2, 7, 9, 3, dtype=torch.uint8),
        torch.zeros(2, 9, 9, 4, dtype=torch.uint8),
        torch.zeros(2, 9, 9, 3),
        torch.zeros(9, 9, 3, dtype=torch.uint8),
    ],
)
def test_other_images_are_refused(bad):
    with pytest.raises(
        MeasureError, match=r"texture reads uint8 images \[n, H, W, 1 or 3\] of 8 or more pixels"
    ):
        texture(bad)


def test_the_extractor_gives_the_statistics_and_names_what_made_them():
    x = images(70)
    extractor = open_extractor("texture", device="meta")  # it stays on the CPU, whatever the device
    torch.testing.assert_close(extractor(x), texture(x))
    assert extractor.dim == 8 and extractor.name == "texture" and extractor.key.startswith("texture-")
    assert (
        extractor.recipe["statistics"] == list(STATISTICS)
        and extractor.recipe["zlib"] == zlib.ZLIB_RUNTIME_VERSION
    )
    with pytest.raises(MeasureError, match="8 or more pixels"):
        extractor(x[:, :4])
    with pytest.raises(MeasureError, match=r"unknown extractor 'textures'; did you mean 'texture'\?"):
        open_extractor("textures")
