"""Find near copies: images that were saved as JPEG, resized, or changed by a few grey levels.

Unrelated images of one kind may be near each other too, such as two drawings of one sign, or two patches of
one sky. So no distance is small by itself. An image is a near copy of another one if all of these hold:

- the root mean square of their difference is at most `GREY` grey levels;
- no part of the image is lighter or darker by more than `PART` grey levels, on average over 4 x 4 pixels.
  What differs in content differs somewhere; what was saved again differs a little everywhere;
- the difference is at most `SHARE` of the distance from the other image to its `RANK`-th nearest image, so it
  is far below what is usual between different images there;
- the difference is at most `SHARE` of the contrast of the other image, because nothing tells flat images
  apart.

Images are compared at up to 32 x 32 pixels, luma in full and colour at half the resolution and with half the
weight, because JPEG stores it more coarsely. Mirrored, shifted and cropped images are not found, nor is an
image with more than four other versions in the set.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

SIDE = 32
"""Largest side of a thumbnail, in pixels."""
GREY = 10.0
"""Largest root mean square difference between near copies, in grey levels of 255."""
PART = 6.0
"""Largest difference between the mean lumas of 4 x 4 pixels of near copies, in grey levels of 255."""
SHARE = 0.25
"""Largest distance between near copies, as a share of the usual distance and of the contrast."""
RANK = 5
"""The usual distance is that to the neighbour of this rank. So up to four further copies may be in a set."""
BLOCK = 512
"""Images whose distances are computed at a time."""


def thumbnails(pixels: np.ndarray) -> np.ndarray:
    """Images uint8 [n, H, W, C], averaged to at most 32 x 32 pixels: uint8 [n, h, w, C]."""
    height, width = (min(SIDE, side) for side in pixels.shape[1:3])
    if pixels.shape[1:3] == (height, width):
        return pixels
    small = np.empty((len(pixels), height, width, pixels.shape[3]), np.uint8)
    for image, into in zip(pixels, small, strict=True):
        into[:] = _resized(image, height, width)
    return small


def square_thumbnail(image: np.ndarray) -> np.ndarray:
    """An image uint8 [H, W, C] of any size, stretched to 32 x 32 pixels: uint8 [32, 32, C]."""
    return _resized(image, SIDE, SIDE)


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    made = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    small = np.asarray(made.resize((width, height), Image.Resampling.BOX))
    return small.reshape(height, width, image.shape[2])


def near_copies(images: np.ndarray, of: np.ndarray) -> np.ndarray:
    """The position in `of` of the image that each of `images` is a near copy of, int64 [n]; -1 = of none.

    Equal images count as near copies. Of each image only the nearest one is looked at. Raises ValueError for
    images of different shapes.

    Args:
        images, of: thumbnails uint8 [n, h, w, C] and [m, h, w, C]. What is usual is read from `of`.
    """
    if len(images) and len(of) and images.shape[1:] != of.shape[1:]:
        raise ValueError(f"near copies need images of one shape, got {images.shape[1:]} and {of.shape[1:]}")
    return _found(images, of)


def near_copies_within(images: np.ndarray, most: int | None = None) -> np.ndarray:
    """The position of another image of the set that each image is a near copy of, int64 [n]; -1 = of none.

    Of equal images only the first one is compared; the others have -1.

    Args:
        images: thumbnails uint8 [n, h, w, C].
        most: only the first `most` different images are compared with all; None = all are.
    """
    first = _different(images)
    found = np.full(len(images), -1)
    near = _found(images[first[:most]], images[first], apart=True)
    found[first[:most]] = np.where(near < 0, -1, first[near])
    return found


def _found(images: np.ndarray, of: np.ndarray, apart: bool = False) -> np.ndarray:
    """As `near_copies`.

    Args:
        apart: `images` are the first ones of `of`, and no image is its own copy.
    """
    found = np.full(len(images), -1)
    if not len(images) or len(of) <= apart:
        return found
    # Means of 4 x 4 pixels are at most as far apart as the pixels are. Most images need no further look.
    pixels = images.shape[1] * images.shape[2]
    part = min(4, *images.shape[1:3])
    coarse, coarse_of = (part * avg_pool2d(_luma(x), part).flatten(1) for x in (images, of))
    rows = torch.arange(len(images))
    rows = rows[_nearest(coarse, coarse_of, rows if apart else None)[1] <= GREY**2 * pixels + 1]
    if len(rows):
        a, b = _Colours(images[rows.numpy()]), _Colours(of)
        position, squared = _nearest(a.flat, b.flat, rows if apart else None)
        found[rows.numpy()] = _near(a, b, position, squared).numpy()
    return found


def _different(images: np.ndarray) -> np.ndarray:
    """The position of the first image of each content, int64."""
    seen: dict[bytes, int] = {}
    for position, image in enumerate(images):
        seen.setdefault(image.tobytes(), position)
    return np.array(list(seen.values()), dtype=np.int64)


def _planes(images: np.ndarray) -> Tensor:
    """float32 [n, C, h, w]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()


def _luma(images: np.ndarray) -> Tensor:
    """float32 [n, 1, h, w]."""
    planes = _planes(images)
    if planes.shape[1] != 3:
        return planes.mean(1, keepdim=True)
    return (planes * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


class _Colours:
    """Images as vectors: luma, and for colour images Cb and Cr of JPEG at half the resolution.

    Attributes:
        flat: float32 [n, d]. Colour counts half, because JPEG stores it more coarsely than luma.
        luma: float32 [n, 1, h, w].
        contrast: squared distance from each image to a flat one of its mean colour, float32 [n].
        pixels: h w.
    """

    def __init__(self, images: np.ndarray):
        self.luma = _luma(images)
        self.pixels = self.luma.shape[2] * self.luma.shape[3]
        parts = [self.luma.flatten(1)]
        if images.shape[3] == 3:
            planes = _planes(images)
            for weight, plane in ((0.564, planes[:, 2:]), (0.713, planes[:, :1])):
                halved = avg_pool2d(weight * (plane - self.luma), 2, ceil_mode=True)
                parts.append(math.sqrt(2) * halved.flatten(1))  # half of the pixels that it covers
        self.flat = torch.cat(parts, 1)
        self.contrast = torch.stack([part.var(1, correction=0) * part.shape[1] for part in parts]).sum(0)


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances [n, m]."""
    return torch.addmm((b * b).sum(1)[None], a, b.T, alpha=-2) + (a * a).sum(1)[:, None]


def _nearest(a: Tensor, b: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Position int64 [n] and squared distance [n] of the nearest row of `b`.

    Args:
        own: the row of `b` that each row of `a` is, which is not its own neighbour; None = of two sets.
    """
    centre = b.mean(0)  # small numbers lose less in the difference of squares
    others = b - centre
    positions, squared = [], []
    for rows in torch.arange(len(a)).split(BLOCK):
        distance = _squared(a[rows] - centre, others)
        if own is not None:
            distance[torch.arange(len(rows)), own[rows]] = float("inf")
        position = distance.argmin(1)
        positions.append(position)
        squared.append((a[rows] - b[position]).square().sum(1))
    return torch.cat(positions), torch.cat(squared)


def _near(a: _Colours, b: _Colours, position: Tensor, squared: Tensor) -> Tensor:
    """`position`, with -1 where the nearest image is not near enough."""
    rows = torch.nonzero(squared <= GREY**2 * a.pixels).flatten()
    difference = a.luma[rows] - b.luma[position[rows]]
    height, width = (max(1, side // 4) for side in difference.shape[2:])
    in_parts = adaptive_avg_pool2d(difference, (height, width)).abs().flatten(1).amax(1)
    rows = rows[in_parts <= PART]
    usual, contrast = _usual(b, position[rows]), b.contrast[position[rows]]
    kept = rows[squared[rows] <= SHARE**2 * torch.minimum(usual, contrast)]
    # Equal images need no further test.
    kept = torch.cat([kept, torch.nonzero(squared == 0).flatten()]).unique()
    found = torch.full_like(position, -1)
    found[kept] = position[kept]
    return found


def _usual(b: _Colours, positions: Tensor) -> Tensor:
    """Squared distance from the images at `positions` to their neighbours of rank `RANK` among the different
    images of `b`; to the farthest one, if there are fewer.
    """
    if not len(positions):
        return torch.zeros(0)
    different = b.flat[torch.from_numpy(_different(b.flat.numpy()))]
    centre = different.mean(0)
    rank = min(RANK + 1, len(different))  # the image itself has rank 1
    if rank == 1:
        return torch.full((len(positions),), float("inf"))
    return torch.cat(
        [
            _squared(b.flat[rows] - centre, different - centre).topk(rank, 1, largest=False).values[:, -1]
            for rows in positions.split(BLOCK)
        ]
    )
