"""Controls of a diagnosis: real images that are given the look or the defects of other images, or are saved
as JPEG.

Blur, sharpening and colour change every measure of content a little: blurred images vary less, and they lie
outside the manifold of sharp images. Real images with the same look show how much of an effect the look
explains.

Spectra are those of images mirrored at their edges, where jumps would count as detail. Such a spectrum is
real: the cosine transform DCT-II of the image itself.
"""

from __future__ import annotations

import io
from collections.abc import Collection

import numpy as np
import torch
from PIL import Image

from difflab.features.artefacts import blocking
from difflab.features.texture import luminance, texture
from difflab.metrics.texture import spread, wasserstein

MOST = 16.0
"""Largest gain of one frequency, and of colour."""
LEFT = 1 / 3
"""Largest share of a difference in look that a control may leave."""
ROUNDS = 4
"""Clipping and the grey levels change the spectrum a little, so it is matched in several rounds."""
FEW_LEVELS, BLOCKED = {"posterised", "banded"}, "blocked"
"""Looks that are defects and that no filter makes."""
QUALITIES = (5, 7, 10, 14, 20, 28, 40, 60)
"""Qualities of JPEG that blocks are compared with."""
HALF = 2
"""JPEG's code for colours at half resolution, which is usual at these qualities."""
FEW = 100
"""Images from which the quality is found."""
LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the brightness."""


def in_look(images: np.ndarray, like: np.ndarray, looks: Collection[str]) -> np.ndarray:
    """`images` that look like `like`: its defects, colours and spectrum, but their own content.

    Of two changes the one that comes nearer to the look of `like` is made: of the colours alone, or of the
    spectrum as well. A filter breaks the flat areas of a drawing: it is no control for a change of colours.
    None is made that leaves more than `LEFT` of the difference: images that were selected look different from
    all others, but no change of all others makes them look so.

    Args:
        images: uint8 [n, H, W, C].
        like: uint8 [m, H, W, C].
        looks: names of the looks of `like`, see `defective`.
    """
    with_defects = defective(images, like, looks)
    changes = [with_defects, *(defective(f(with_defects, like), like, looks) for f in (recoloured, matched))]
    wanted, *statistics = (texture(torch.from_numpy(x)).double() for x in (like, *changes))
    unit = spread(torch.cat([wanted, statistics[0]]))
    apart = [_apart(wanted, of_change, unit) for of_change in statistics]
    # Halves differ by chance 2^(1/2) times as much as all.
    chance = _apart(statistics[0][::2], statistics[0][1::2], unit) / 2**0.5
    nearest = int(np.argmin(apart))
    return changes[nearest if apart[nearest] - chance <= LEFT * (apart[0] - chance) else 0]


def _apart(x: torch.Tensor, y: torch.Tensor, unit: torch.Tensor) -> float:
    """Sum over statistics [n, d] of the Wasserstein-1 distance, in units [d]; those without a unit do not
    count.
    """
    return sum(wasserstein(x[:, i], y[:, i]) / float(unit[i]) for i in range(len(unit)) if unit[i] > 0)


def recoloured(images: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`images` with the grey levels and the mean chroma of `like`. Pixels of one level stay of one level.

    Args:
        images: uint8 [n, H, W, C].
        like: uint8 [m, H, W, C].

    >>> images = np.array([0, 0, 0, 50, 50, 90], np.uint8).reshape(1, 2, 3, 1)
    >>> recoloured(images, images * 2).ravel().tolist()
    [0, 0, 0, 100, 100, 180]
    """
    x, y = images.astype(np.float64), like.astype(np.float64)
    light = _levelled(_luma(x), np.sort(_luma(y), axis=None))[..., None]
    for _ in range(ROUNDS):
        colour = x - _luma(x)[..., None]
        if x.shape[3] == 3:
            colour *= min(MOST, _chroma(y) / max(_chroma(x), 1e-12))
        x = (light + colour).clip(0, 255)
    return x.round().astype(np.uint8)


def matched(images: np.ndarray, like: np.ndarray, levels: bool = True) -> np.ndarray:
    """`images` with the mean radial power spectrum, the grey levels and the mean chroma of `like`, but their
    own content.

    The filter has one gain per frequency ring, which is the same for all images and channels: it is linear
    and has no phase. Whatever such a filter and a change of colour explain of the look of `like` is then in
    both sets.

    Args:
        images: uint8 [n, H, W, C].
        like: uint8 [m, H, W, C].
        levels: False = keep the grey levels, but for the filter and for clipping.

    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(64, 192, (4, 8, 8, 3), dtype=np.uint8)
    >>> bool(np.abs(matched(images, images).astype(int) - images).max() <= 1)
    True
    """
    from scipy.fft import dctn, idctn

    x, y = images.astype(np.float64), like.astype(np.float64)
    ring = _ring(*x.shape[1:3])
    target, wanted = _power(dctn(_luma(y), axes=(1, 2))), np.sort(_luma(y), axis=None)
    for _ in range(ROUNDS):
        spectrum = dctn(x, axes=(1, 2))
        power = _power(_luma(spectrum))
        gain = np.sqrt(np.clip(target / np.maximum(power, 1e-12), 1 / MOST**2, MOST**2))
        gain[0] = 1  # the mean of one image is content; the mean of all images is a grey level
        spectrum *= gain[ring][:, :, None]
        x = idctn(spectrum, axes=(1, 2), overwrite_x=True)
        luma = _luma(x)[..., None]
        if x.shape[3] == 3:
            x = luma + (x - luma) * min(MOST, _chroma(y) / max(_chroma(x), 1e-12))
        x = (x + (_levelled(luma, wanted) - luma if levels else 0)).clip(0, 255)
    return x.round().astype(np.uint8)


def _levelled(luma: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """`luma` with the grey levels of other images, matched by rank over all pixels of all images.

    Args:
        levels: sorted.
    """
    _, level_of, counts = np.unique(luma, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts + 1) / 2  # of equal pixels, their mean
    new = np.interp(rank / max(luma.size - 1, 1), np.linspace(0, 1, len(levels)), levels)
    return new[level_of.reshape(luma.shape)]


def _luma(x_NHWC: np.ndarray) -> np.ndarray:
    """Brightness [N, H, W]."""
    return x_NHWC[..., 0] if x_NHWC.shape[3] == 1 else x_NHWC @ LUMA


def defective(images: np.ndarray, like: np.ndarray, looks: Collection[str]) -> np.ndarray:
    """`images` with the defects of `like`, which no filter explains: few levels, few colours, JPEG blocks.

    Args:
        images: uint8 [n, H, W, C].
        like: uint8 [m, H, W, C].
        looks: names of looks. `FEW_LEVELS` stand for levels and colours, `BLOCKED` for blocks. Others change
            nothing.
    """
    if FEW_LEVELS & set(looks):
        images = _few_colours(_few_levels(images, like), like)
    return _blocked(images, like) if BLOCKED in looks else images


def _few_levels(images: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Every value replaced by the nearest one that `like` uses anywhere."""
    used = np.unique(like).astype(np.int64)
    nearest = np.abs(np.arange(256)[:, None] - used).argmin(1)
    return used[nearest].astype(np.uint8)[images]


def _few_colours(images: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Every image with a palette of its own, of as many colours as an image of `like` has (median)."""
    wanted = int(np.median([_n_colours(image) for image in like]))
    if wanted > 256:
        return images
    quantised = []
    for image in images:
        shown = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
        few = shown.quantize(wanted, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert(shown.mode)
        quantised.append(np.asarray(few).reshape(image.shape))
    return np.stack(quantised)


def _n_colours(image: np.ndarray) -> int:
    """Number of distinct colours of an image [H, W, C]."""
    packed = image.astype(np.int64) @ 256 ** np.arange(image.shape[2])
    return len(np.unique(packed))


def _blocked(images: np.ndarray, like: np.ndarray) -> np.ndarray:
    """JPEG of the quality at which `images` have blocks as strong as those of `like` (median)."""

    def strength(x: np.ndarray) -> float:
        return float(blocking(luminance(torch.from_numpy(x).double())).median())

    target, few = strength(like), images[:FEW]
    quality = min(QUALITIES, key=lambda quality: abs(strength(reencoded(few, quality, HALF)) - target))
    return reencoded(images, quality, HALF)


def reencoded(images: np.ndarray, quality: int = 75, subsampling: int = 0) -> np.ndarray:
    """`images` uint8 [n, H, W, C] saved as JPEG and read again, with colours at full resolution (0)."""
    return np.stack([_jpeg(image, quality, subsampling) for image in images])


def _jpeg(image: np.ndarray, quality: int, subsampling: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(
        file, "JPEG", quality=quality, subsampling=subsampling
    )
    return np.asarray(Image.open(file)).reshape(image.shape)


def _ring(height: int, width: int) -> np.ndarray:
    """Number of the frequency ring of each coefficient of a DCT, int64 [H, W]; ring 0 is the mean alone."""
    frequencies = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width)
    return np.ceil(frequencies * min(height, width) - 1e-9).astype(np.int64)


def _power(spectrum_NHW: np.ndarray) -> np.ndarray:
    """Mean power per ring, float64 [rings], of the DCTs of luminance.

    Frequencies other than 0 count twice, as those of both signs.
    """
    height, width = spectrum_NHW.shape[1:]
    ring = _ring(height, width).ravel()
    count = np.outer(*(np.where(np.arange(side) > 0, 2, 1) for side in (height, width))).ravel()
    power = np.einsum("nhw,nhw->hw", spectrum_NHW, spectrum_NHW).ravel() / len(spectrum_NHW)
    return np.bincount(ring, count * power) / np.bincount(ring, count)


def _chroma(x_NHWC: np.ndarray) -> float:
    """Root mean square distance of the colours from grey."""
    return float(np.sqrt(np.square(x_NHWC - _luma(x_NHWC)[..., None]).mean()))
