"""Read the invisible watermarks that Stable Diffusion scripts and diffusers embed: method dwtDct.

The method is that of the package invisible-watermark (0.2.0, `maxDct.py`), which is not needed to read it: a
Haar transform of the blue chroma U, whose low band is cut into blocks of 4 x 4. The largest value of each
block but its first carries one bit: whether its remainder by 36 is above 18. Bit i is the majority over the
blocks i, i + length, ...

- Images of fewer than 256 x 256 pixels cannot carry the mark; the package refuses them.
- A mark that is found is strong evidence. A mark that is not found says nothing: the method loses bits at
  256 pixels without any change, and reads at chance in a JPEG file with usual settings.

Other methods (dwtDctSvd, RivaGAN, tree-ring, SynthID) are not read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

SMALLEST = 256
"""Side of the smallest square, in pixels, that can carry a mark."""
SCALE, BLOCK = 36, 4
OF_BLUE_CHROMA = (0.492 * np.array([-0.299, -0.587, 1 - 0.114])).astype(np.float32)
"""Weights of R, G and B in U - 128."""
CHANCE = 1e-6
"""Largest probability that as many bits agree by chance, if each bit agrees with probability 1/2."""


@dataclass(frozen=True)
class Message:
    """A published message: who embeds it, and its bits, uint8 [length]."""

    name: str
    bits: np.ndarray

    @property
    def least(self) -> int:
        """The least number of agreeing bits that is reached by chance with probability `CHANCE` or less."""
        return least_agreeing(len(self.bits))


@cache
def least_agreeing(length: int) -> int:
    """The least k with P(Binomial(length, 1/2) >= k) <= `CHANCE`.

    >>> least_agreeing(48), least_agreeing(136)
    (41, 96)
    """
    tail, k = 0, length + 1
    while (tail + math.comb(length, k - 1)) / 2**length <= CHANCE:
        k -= 1
        tail += math.comb(length, k)
    return k


def _of_text(text: str) -> np.ndarray:
    return np.unpackbits(np.frombuffer(text.encode(), np.uint8))


MESSAGES = (
    # scripts/txt2img.py of CompVis/stable-diffusion and Stability-AI/stablediffusion
    Message("Stable Diffusion v1 scripts", _of_text("StableDiffusionV1")),
    Message("Stable Diffusion v2 scripts", _of_text("SDV2")),
    # diffusers/pipelines/stable_diffusion_xl/watermark.py
    Message(
        "Stable Diffusion XL",
        np.array([int(bit) for bit in f"{0b101100111110110010010000011110111011000110011110:b}"], np.uint8),
    ),
)


def can_carry(height: int, width: int) -> bool:
    """Whether an image is large enough for a mark."""
    return height * width >= SMALLEST**2


def block_scores(image: np.ndarray) -> np.ndarray:
    """Which blocks say 1, bool [blocks], in rows from the top left. `image` is uint8 [H, W, 3], RGB.

    U is rounded as in the package: without it, a tenth of the marks of 48 bits are lost.
    """
    height, width = (side // 4 * 4 for side in image.shape[:2])
    blue = image[:height, :width].astype(np.float32).reshape(-1, 3) @ OF_BLUE_CHROMA
    blue = np.rint(blue, out=blue).reshape(height, width)
    pairs = blue[0::2] + blue[1::2]
    low = (pairs[:, 0::2] + pairs[:, 1::2]) / 2 + 2 * 128
    rows, columns = low.shape[0] // BLOCK, low.shape[1] // BLOCK
    blocks = low[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    values = blocks.transpose(0, 2, 1, 3).reshape(rows * columns, BLOCK * BLOCK)[:, 1:]
    return values.max(1) % SCALE > SCALE / 2


def bits_of(scores: np.ndarray, length: int) -> np.ndarray:
    """The message of `length` bits that the blocks carry, uint8 [length]."""
    bit = np.arange(len(scores)) % length
    ones, count = np.bincount(bit, scores, length), np.bincount(bit, minlength=length)
    return (ones / np.maximum(count, 1) * 255 > 127).astype(np.uint8)


def read_mark(image: np.ndarray) -> str | None:
    """The name of the published message that an image carries; None if it carries none of `MESSAGES`.

    As many bits as `Message.least` must agree.

    Args:
        image: uint8 [H, W, 3] in RGB. Grey images and small ones carry no mark.
    """
    if image.ndim != 3 or image.shape[2] != 3 or not can_carry(*image.shape[:2]):
        return None
    scores = block_scores(image)
    for message in MESSAGES:
        agreeing = int((bits_of(scores, len(message.bits)) == message.bits).sum())
        if agreeing >= message.least:
            return message.name
    return None
