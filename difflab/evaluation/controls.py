"""Controls of a diagnosis: real images that are given the look of other images, or are saved as JPEG.

Blur, sharpening and colour change every measure of content a little: blurred images vary less, and they lie
outside the manifold of sharp images. Real images with the same look show how much of an effect the look
explains.

Spectra are those of images mirrored at their edges, where jumps would count as detail. Such a spectrum is
real: the cosine transform DCT-II of the image itself.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy.fft import dctn, idctn

MOST = 16.0
"""Largest gain of one frequency, and of colour."""
ROUNDS = 4
"""Clipping and the grey levels change the spectrum a little, so it is matched in several rounds."""
LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the brightness."""


def matched(images: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`images` with the mean radial power spectrum, the grey levels and the mean chroma of `like`, but their
    own content.

    The filter has one gain per frequency ring, which is the same for all images and channels: it is linear
    and has no phase. Whatever such a filter and a change of colour explain of the look of `like` is then in
    both sets.

    Args:
        images: uint8 [n, H, W, C].
        like: uint8 [m, H, W, C].

    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(64, 192, (4, 8, 8, 3), dtype=np.uint8)
    >>> bool(np.abs(matched(images, images).astype(int) - images).max() <= 1)
    True
    """
    x, y = images.astype(np.float64), like.astype(np.float64)
    ring = _ring(*x.shape[1:3])
    target, levels = _power(dctn(_luma(y), axes=(1, 2))), np.sort(_luma(y), axis=None)
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
        x = (x + _levelled(luma, levels) - luma).clip(0, 255)
    return x.round().astype(np.uint8)


def _levelled(luma: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """`luma` with the grey levels of other images, matched by rank over all pixels of all images.

    Args:
        levels: sorted.
    """
    order = np.argsort(luma, axis=None, kind="stable")
    out = np.empty(luma.size)
    out[order] = np.interp(
        np.arange(luma.size) / max(luma.size - 1, 1), np.linspace(0, 1, len(levels)), levels
    )
    return out.reshape(luma.shape)


def _luma(x_NHWC: np.ndarray) -> np.ndarray:
    """Brightness [N, H, W]."""
    return x_NHWC[..., 0] if x_NHWC.shape[3] == 1 else x_NHWC @ LUMA


def reencoded(images: np.ndarray, quality: int = 75) -> np.ndarray:
    """`images` uint8 [n, H, W, C] saved as JPEG and read again, without colour subsampling."""
    return np.stack([_jpeg(image, quality) for image in images])


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(
        file, "JPEG", quality=quality, subsampling=0
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
