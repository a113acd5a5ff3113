"""Eight statistics of each image that need no network: colour, contrast, sharpness, spectrum,
compressibility, entropy.

They are the features of the extractor `texture`. The measures of difflab/metrics/texture.py read them and no
other features.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.features.extractor import Extractor

STATISTICS = (
    "colourfulness",
    "saturation",
    "contrast",
    "sharpness",
    "spectral_slope",
    "high_frequency",
    "bits_per_pixel",
    "local_entropy",
)
"""The columns of `texture`, in order."""
BLOCK, LEVELS = 8, 16
"""Side in pixels and grey levels of the blocks of local_entropy."""


def texture(images: Tensor) -> Tensor:
    """The statistics of uint8 images [n, H, W, 1 or 3] with sides of at least 8 pixels: float32 [n, 8] on the
    CPU.

    One column per entry of `STATISTICS`:

        colourfulness    0..      M3 of Hasler & Suesstrunk 2003 on values 0..255; 0 for grey images
        saturation       0..1     mean over pixels of (max - min) / max, as in HSV; 0 for black or grey
        contrast         0..0.5   standard deviation of luminance in 0..1 (RMS contrast, Peli 1990)
        sharpness        0..16    variance of the 4-neighbour Laplacian of that luminance, without the
                                  border (Pech-Pacheco 2000)
        spectral_slope            slope of log power against log frequency, see `spectrum`: 0 for white
                                  noise, about -2 for photos
        high_frequency   0..1     share of power above half of the Nyquist frequency (a quarter cycle per
                                  pixel); 1 - pi/16 for white noise
        bits_per_pixel   0..      bits of the zlib-compressed differences to the left neighbour (PNG's Sub
                                  filter), over all channels
        local_entropy    0..4     mean entropy in bits of the histogram of 16 grey levels in blocks of 8 x 8
                                  pixels

    Luminance is .299 R + .587 G + .114 B of the stored values. Computed in float64. Raises MeasureError for
    other input.

    >>> texture(torch.full((1, 8, 8, 1), 7, dtype=torch.uint8))[0, :6]
    tensor([0., 0., 0., 0., 0., 0.])
    """
    valid = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[3] in (1, 3)
    if not valid or min(images.shape[1:3]) < 8:
        raise MeasureError(
            f"texture reads uint8 images [n, H, W, 1 or 3] of 8 or more pixels a side, got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    images = images.cpu()
    # 4 million pixels: some hundred MB.
    n_per_batch = max(1, 4 * 2**20 // (images.shape[1] * images.shape[2]))
    batches = images.split(n_per_batch) if len(images) else ()
    return torch.cat([torch.zeros(0, len(STATISTICS)), *(_texture(batch) for batch in batches)])


def _texture(images_NHWC: Tensor) -> Tensor:
    x = images_NHWC.double()
    grey = luminance(x)
    light = grey / 255
    laplacian = (
        light[:, :-2, 1:-1]
        + light[:, 2:, 1:-1]
        + light[:, 1:-1, :-2]
        + light[:, 1:-1, 2:]
        - 4 * light[:, 1:-1, 1:-1]
    )
    columns = [
        *_colour(x),
        light.flatten(1).std(1, correction=0),
        laplacian.flatten(1).var(1, correction=0),
        *spectrum(grey),
        _bits_per_pixel(images_NHWC),
        _local_entropy(grey),
    ]
    return torch.stack(columns, 1).float()


def luminance(x_NHWC: Tensor) -> Tensor:
    """Brightness [n, H, W] of float64 images, in the units of their values."""
    if x_NHWC.shape[3] == 1:
        return x_NHWC[..., 0]
    return (x_NHWC @ torch.tensor([299.0, 587.0, 114.0], dtype=x_NHWC.dtype)) / 1000


def _colour(x_NHWC: Tensor) -> tuple[Tensor, Tensor]:
    if x_NHWC.shape[3] == 1:
        return (torch.zeros(len(x_NHWC), dtype=x_NHWC.dtype),) * 2
    r, g, b = x_NHWC.flatten(1, 2).unbind(2)
    opponents = torch.stack([r - g, (r + g) / 2 - b])
    colourfulness = opponents.std(2, correction=0).norm(dim=0) + 0.3 * opponents.mean(2).norm(dim=0)
    most, least = x_NHWC.amax(3), x_NHWC.amin(3)
    return colourfulness, ((most - least) / most.clamp(min=1)).flatten(1).mean(1)


def spectrum(luminance_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """spectral_slope and high_frequency, float64 [n] each, of luminance in 0..255.

    The weighted mean is subtracted and a Hann window applied, so that differences between opposite borders do
    not count as edges. Power is averaged over rings in frequency space, each one frequency step of the
    shorter side wide, up to Nyquist. The slope is a least-squares fit over all rings but the first, into
    which the window leaks the mean (van der Schaaf & van Hateren 1996). On noise with a slope of 0 to -2 the
    mean estimate is off by at most .18 at 8 pixels a side and .05 at 64. The standard deviation over images
    is 1.2 and .12.

    Rounding to 8 bits adds white noise of variance 1/12. Rings with less power count as that noise, so that a
    constant image has slope 0 and no high frequencies.
    """
    radius, power, noise = _power(luminance_NHW)
    frequency, ring_power = _rings(luminance_NHW, radius, power, noise)
    x, y = frequency.log(), ring_power.log()
    slope = (y - y.mean(1, keepdim=True)) @ (x - x.mean()) / (x - x.mean()).square().sum()
    return slope, power[:, radius > 0.25].sum(1) / power.sum(1).clamp(min=noise * len(radius))


def radial_spectrum(images_NHWC: Tensor) -> tuple[Tensor, Tensor]:
    """Frequency [r] in cycles per pixel and power [n, r] of the luminance of uint8 images, averaged over
    rings.

    These are the points that `spectrum` fits its slope to: without the ring nearest to the mean, and with
    power at least that of the noise of rounding.
    """
    grey = luminance(images_NHWC.double())
    return _rings(grey, *_power(grey))


def _power(luminance_NHW: Tensor) -> tuple[Tensor, Tensor, float]:
    """Radius [H * W] and power [n, H * W] at every frequency, and the expected power of the noise of
    rounding.
    """
    _, height, width = luminance_NHW.shape
    window = torch.outer(
        torch.hann_window(height, dtype=torch.float64), torch.hann_window(width, dtype=torch.float64)
    )
    mean = (luminance_NHW * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2((luminance_NHW - mean) * window).abs().square().flatten(1)
    noise = float(window.square().sum()) / 12  # expected power of rounding at every frequency
    radius = torch.hypot(
        torch.fft.fftfreq(height, dtype=torch.float64).unsqueeze(1),
        torch.fft.fftfreq(width, dtype=torch.float64),
    ).flatten()
    return radius, power, noise


def _rings(luminance_NHW: Tensor, radius: Tensor, power: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Mean radius [r] and mean power [n, r] of the rings, from the second one to Nyquist."""
    side = min(luminance_NHW.shape[1:])
    ring = (radius * side).round().long()
    inside = (ring >= 2) & (ring <= side // 2)
    ring = ring[inside] - 2
    size = torch.bincount(ring)
    ring_power = torch.zeros(len(power) + 1, len(size), dtype=torch.float64)
    ring_power.index_add_(1, ring, torch.cat([radius.unsqueeze(0), power])[:, inside])
    return ring_power[0] / size, (ring_power[1:] / size).clamp(min=noise)


def _bits_per_pixel(images_NHWC: Tensor) -> Tensor:
    differences = images_NHWC.clone()
    differences[:, :, 1:] -= images_NHWC[:, :, :-1]  # modulo 256
    sizes = [len(zlib.compress(image.numpy().tobytes(), 6)) for image in differences]
    return torch.tensor(sizes, dtype=torch.float64) * 8 / (images_NHWC.shape[1] * images_NHWC.shape[2])


def _local_entropy(luminance_NHW: Tensor) -> Tensor:
    n, height, width = luminance_NHW.shape
    rows, columns = height // BLOCK, width // BLOCK  # an incomplete last block is left out
    levels = luminance_NHW[:, : rows * BLOCK, : columns * BLOCK].round().long() * LEVELS // 256
    blocks = levels.view(n, rows, BLOCK, columns, BLOCK).transpose(2, 3)
    blocks = blocks.reshape(n, rows * columns, BLOCK * BLOCK)
    counts = torch.zeros(n, rows * columns, LEVELS, dtype=torch.float64)
    counts.scatter_add_(2, blocks, torch.ones(1, 1, 1, dtype=torch.float64).expand_as(blocks))
    return torch.special.entr(counts / BLOCK**2).sum(2).mean(1) / math.log(2)


def open_texture() -> Extractor:
    """The extractor `texture`. It runs on the CPU whatever the device of the others, in float64."""
    recipe = {
        "input": "own size",
        "resize": "none",
        "values": "[0, 255]",
        "dtype": "float64",
        "statistics": list(STATISTICS),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,  # zlib and zlib-ng compress the same bytes to different sizes
    }

    def encode(images_NCHW: Tensor) -> Tensor:
        return texture(images_NCHW.permute(0, 2, 3, 1).contiguous())

    return Extractor("texture", len(STATISTICS), recipe, encode, "cpu")
