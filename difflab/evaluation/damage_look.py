"""Simulated damages to how images look: detail, colour, compression blocks and grey levels."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from difflab.core.errors import DataError
from difflab.evaluation.controls import LUMA
from difflab.evaluation.damage import Labelled, Pool, at_least, blend, each, jpeg, kind, rounded

SMALLEST = 16
"""Fewest pixels a side of images that can show blocks of 8 pixels, or an oscillation beside an edge."""


# ------------------------------------------------------------------------------------------------- detail
@kind("detail")
def blurred(pool: Pool) -> Labelled:
    """A Gaussian blur with a radius of a tenth of the width at degree 1 (loss of detail)."""
    images, labels = pool.unchanged()

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(0.1 * pool.degree * image.width))

    return each(images, blur), labels


@kind("detail")
def sharpened(pool: Pool) -> Labelled:
    """An unsharp mask of 400 percent at degree 1."""
    images, labels = pool.unchanged()

    def sharpen(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.UnsharpMask(1, round(400 * pool.degree), 0))

    return each(images, sharpen), labels


@kind("detail")
def ringing(pool: Pool) -> Labelled:
    """Edges oscillate (Gibbs phenomenon), as after a careless resampling.

    The spectrum ends abruptly at a share 1 - degree / 2 of the highest frequency, and the quarter of the
    frequencies below the end is amplified, by 1 + degree. Raises DataError for images below 16 pixels a side.
    """
    at_least(pool, SMALLEST, "ringing")
    images, labels = pool.unchanged()
    height, width = images.shape[1:3]
    mirrored = np.pad(images, ((0, 0), (0, height), (0, width), (0, 0)), "symmetric")
    frequency = 2 * np.hypot(np.fft.fftfreq(2 * height)[:, None], np.fft.fftfreq(2 * width))
    end = 1 - 0.5 * pool.degree
    gain = np.where(frequency > 0.75 * end, 1 + pool.degree, 1.0) * (frequency <= end)
    spectrum = np.fft.fft2(mirrored, axes=(1, 2)) * gain[None, :, :, None]
    return rounded(np.fft.ifft2(spectrum, axes=(1, 2)).real[:, :height, :width]), labels


# ------------------------------------------------------------------------------------------------- colour
@kind("colour")
def saturated(pool: Pool) -> Labelled:
    """Colours three times as far from grey at degree 1. Raises DataError for grey images."""
    images, labels = pool.unchanged()
    if images.shape[3] != 3:
        raise DataError("saturated needs colour images")
    grey = np.repeat((images @ LUMA)[..., None], 3, axis=3)
    return blend(images, grey, -2 * pool.degree), labels


# -------------------------------------------------------------------------------------- blocks and levels
@kind("blocks")
def blocked(pool: Pool) -> Labelled:
    """JPEG of quality 25 at degree 0.2 down to 5 at degree 1: blocks of 8 pixels show.

    Raises DataError for images below 16 pixels a side.
    """
    at_least(pool, SMALLEST, "blocked")
    images, labels = pool.unchanged()
    return each(images, partial(jpeg, quality=round(30 - 25 * pool.degree))), labels


@kind("levels")
def posterised(pool: Pool) -> Labelled:
    """Every image has a palette of few colours of its own, 21 at degree 0.2 down to 4 at degree 1."""
    images, labels = pool.unchanged()
    colours = n_levels(pool.degree)

    def quantise(image: Image.Image) -> Image.Image:
        return image.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert(image.mode)

    return each(images, quantise), labels


@kind("levels")
def banded(pool: Pool) -> Labelled:
    """Every channel has few equally spaced levels, 21 at degree 0.2 down to 4 at degree 1, without dither.

    Smooth gradients become visible steps. The levels are the same in all images.
    """
    images, labels = pool.unchanged()
    steps = n_levels(pool.degree) - 1
    return rounded(np.round(images / 255 * steps) * (255 / steps)), labels


def n_levels(degree: float) -> int:
    """Colours or levels that are left: 32 towards degree 0, 4 at degree 1, in equal ratios."""
    return round(2 ** (5 - 3 * degree))
