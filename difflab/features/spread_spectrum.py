"""A spread-spectrum watermark: writing it, reading it, and the exact law of its statistics without a mark.

A key gives a cell of 16 x 16 fair signs, which is repeated over the image (`pattern`). Marking adds the
signs, times a strength in grey levels, to all channels. The signs carry a message of 32 bits that the key
gives as well: bit i is carried by 8 chips of the cell, 2 in an image of 8 x 8 pixels. A chip is one sign;
it covers a square of `chip` pixels a side.

Reading (`agreements`) sums the channels, subtracts the four neighbours of every chip, adds up the
repetitions of the cell, and compares the sign of each of the 256 sums with the sign of the key.

**Without a mark.** If the key was drawn independently of the image, every chip whose sum is not 0 agrees
with probability 1/2, independently of the others, whatever the image is. The number of agreeing chips
among N is then exactly Binomial(N, 1/2): the probability is over keys. This also holds for any sum over
images. It does not hold for many images as separate trials under one key: their content is alike, hence
their agreements are dependent.

The additive pattern is that of Cox et al. 1997 (Secure spread spectrum watermarking for multimedia), the
sign test that of Arbuthnott (Conover 1999, Practical nonparametric statistics, section 3.4).
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.seeds import numpy_generator

CELL = 16
"""Side of the repeated cell, in chips."""
CHIPS = CELL * CELL
BITS = 32
"""Bits of the message."""
BIT_OF_CHIP = (8 * (np.arange(CELL)[:, None] % 4) + np.arange(CELL)[None] % 8).ravel()
"""The bit that each chip of the cell carries, int64 [256]: every block of 4 x 8 chips carries all bits."""
LEAST = 8
"""Least side of an image in chips: 64 chips, two for each bit."""
FALSE_POSITIVES = 0.01
"""Largest probability that an image without a mark is detected, over keys."""


@cache
def cell(key: int) -> np.ndarray:
    """The signs of a key, int8 [16, 16]: fair and independent, the message included."""
    rng = numpy_generator("spread spectrum", key)
    carrier, message = rng.integers(0, 2, CHIPS), rng.integers(0, 2, BITS)
    return (1 - 2 * (carrier ^ message[BIT_OF_CHIP])).astype(np.int8).reshape(CELL, CELL)


def pattern(key: int, height: int, width: int, chip: int = 1) -> np.ndarray:
    """The signs of all pixels of an image, int8 [height, width]."""
    rows, columns = (np.arange(side) // chip % CELL for side in (height, width))
    return cell(key)[rows[:, None], columns[None]]


def marked(images: np.ndarray, key: int, strength: int, chip: int = 1) -> np.ndarray:
    """`images` with the mark, uint8 [n, H, W, C]. Levels below 0 and above 255 are clipped.

    Args:
        strength: what is added or subtracted, in grey levels of 255.

    >>> before = np.full((1, 8, 8, 1), 100, np.uint8)
    >>> np.unique(marked(before, key=7, strength=2)).tolist()
    [98, 102]
    """
    added = strength * pattern(key, images.shape[1], images.shape[2], chip).astype(np.int16)
    return np.clip(images.astype(np.int16) + added[None, :, :, None], 0, 255).astype(np.uint8)


def agreements(images: Tensor, key: int, chip: int = 1) -> Tensor:
    """Whether each chip agrees with the key, float32 [n, 256]: 1 = yes, -1 = no, 0 = it says nothing.

    Args:
        images: uint8 [n, H, W, C], of `LEAST` chips a side or more. Chips cut by the border are not read.

    >>> images = torch.full((1, 8, 8, 3), 100, dtype=torch.uint8)
    >>> int(agreements(images, key=7).abs().sum())
    0
    >>> int(agreements(torch.from_numpy(marked(images.numpy(), 7, 1)), key=7).sum()) > 40
    True
    """
    check_side(images.shape[1], images.shape[2], chip)
    grey = images.to(torch.int32).sum(3)
    height, width = (side // chip for side in grey.shape[1:])
    chips = grey[:, : height * chip, : width * chip].reshape(len(grey), height, chip, width, chip).sum((2, 4))
    left, right = chips[:, :, [0, *range(width - 1)]], chips[:, :, [*range(1, width), width - 1]]
    above, below = chips[:, [0, *range(height - 1)]], chips[:, [*range(1, height), height - 1]]
    residual = 4 * chips - left - right - above - below
    rows, columns = -(-height // CELL) * CELL, -(-width // CELL) * CELL
    filled = residual.new_zeros(len(grey), rows, columns)
    filled[:, :height, :width] = residual
    sums = filled.reshape(len(grey), rows // CELL, CELL, columns // CELL, CELL).sum((1, 3))
    return (sums.sign() * torch.from_numpy(cell(key)).to(sums)).flatten(1).float()


def check_side(height: int, width: int, chip: int = 1) -> None:
    """Raise MeasureError for an image that is too small for the message."""
    if min(height, width) < LEAST * chip:
        raise MeasureError(
            f"a watermark of {BITS} bits needs images of {LEAST * chip} or more pixels a side at "
            f"chip={chip}, got {height} x {width}"
        )


# ------------------------------------------------------------------------------------- the law without a mark
@cache
def upper_tail(count: int, chips: int) -> float:
    """P(Binomial(chips, 1/2) >= count), exact.

    >>> upper_tail(0, 5), upper_tail(5, 5)
    (1.0, 0.03125)
    """
    return sum(math.comb(chips, k) for k in range(count, chips + 1)) / 2**chips


@cache
def least_count(chips: int, rate: float) -> int:
    """The least number of agreeing chips that has a probability of at most `rate` without a mark.

    It is above `chips` where no number has.

    >>> least_count(64, 0.01), least_count(256, 0.01), least_count(3, 0.01)
    (42, 148, 4)
    """
    tail, count = 0, chips + 1
    while count and (tail + math.comb(chips, count - 1)) / 2**chips <= rate:
        count -= 1
        tail += math.comb(chips, count)
    return count


def detected(agreeing: Tensor, rate: float = FALSE_POSITIVES) -> Tensor:
    """Which images carry the mark, bool [n], from `agreements` [n, 256].

    Exact: an image without a mark is detected by a random key with probability at most `rate`.
    """
    counts, chips = (agreeing > 0).sum(1), (agreeing != 0).sum(1)
    least = torch.tensor([least_count(n, rate) for n in range(agreeing.shape[1] + 1)])
    return counts >= least.to(chips.device)[chips]


def bit_shares(agreeing: Tensor) -> Tensor:
    """The share of the bits of the message that are read right in each image, float64 [n].

    The chips of a bit vote; a tie counts as half. Exact: without a mark the expectation over keys is 1/2.
    """
    bits = torch.zeros(len(agreeing), BITS, dtype=agreeing.dtype, device=agreeing.device)
    bits.index_add_(1, torch.from_numpy(BIT_OF_CHIP).to(agreeing.device), agreeing)
    return (bits.sign().double() + 1).mean(1) / 2


def z_of(count: int, chips: int) -> float:
    """The standard normal value of a number of agreeing chips: 1 - Phi(z) = P(Binomial >= count) for z > 0.

    Exact: without a mark a random key gives a z of at least t > 0 with probability at most 1 - Phi(t). It is
    symmetric about 0, where it is 0, and at most 18.6.

    >>> round(z_of(148, 256), 3), round(z_of(108, 256), 3), z_of(0, 0), round(z_of(256, 256), 1)
    (2.441, -2.441, 0.0, 18.6)
    """
    larger = max(count, chips - count)
    tail = upper_tail(larger, chips)
    if tail >= 0.5:
        return 0.0
    return math.copysign(NormalDist().inv_cdf(tail), 2 * count - chips)
