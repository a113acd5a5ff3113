"""Controls of a diagnosis: real images that are given the look of other images, or are saved as JPEG.

Blur, sharpening and colour change every measure of content a little: blurred images vary less, and they lie
outside the manifold of sharp images. Real images with the same look show how much of an effect the look
explains.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

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
    height, width = x.shape[1:3]
    target, ring = _power(y), _ring(2 * height, 2 * width)
    levels = np.sort(_luma(y).ravel())
    for _ in range(ROUNDS):
        gain = np.sqrt(np.clip(target / np.maximum(_power(x), 1e-12), 1 / MOST**2, MOST**2))
        gain[0] = 1  # the mean of one image is content; the mean of all images is a grey level
        spectrum = np.fft.fft2(_mirrored(x), axes=(1, 2)) * gain[ring][None, :, :, None]
        x = np.fft.ifft2(spectrum, axes=(1, 2)).real[:, :height, :width]
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
    """Number of the frequency ring of each coefficient, int64 [H, W]; ring 0 is the mean alone."""
    return np.ceil(
        np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) * min(height, width) - 1e-9
    ).astype(np.int64)


def _mirrored(x_NHWC: np.ndarray) -> np.ndarray:
    """Twice as high and wide, mirrored at the edges. Jumps at the edges would count as detail."""
    x = np.concatenate([x_NHWC, x_NHWC[:, ::-1]], axis=1)
    return np.concatenate([x, x[:, :, ::-1]], axis=2)


def _power(x_NHWC: np.ndarray) -> np.ndarray:
    """Mean power of luminance per ring, float64 [rings]."""
    light = _mirrored(_luma(x_NHWC)[..., None])[..., 0]
    power = np.square(np.abs(np.fft.fft2(light))).mean(0)
    ring = _ring(*light.shape[1:])
    return np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())


def _chroma(x_NHWC: np.ndarray) -> float:
    """Root mean square distance of the colours from grey."""
    return float(np.sqrt(np.square(x_NHWC - _luma(x_NHWC)[..., None]).mean()))
