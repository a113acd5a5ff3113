"""The size of an image, (height, width) in pixels. In a config it is one number for a square, or [H, W]."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Size = tuple[int, int]
"""(height, width) in pixels."""

SMALLEST, LARGEST = 4, 4096
"""Limits of a side of an image in pixels."""


def size_of(value: int | Sequence[int]) -> Size:
    """The size that a setting names: a side of a square, or [H, W]. Raises ValueError for anything else.

    >>> size_of(64), size_of([48, 64])
    ((64, 64), (48, 64))
    """
    sides = [value, value] if isinstance(value, int) else value
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(_is_side(side) for side in sides):
        raise ValueError(
            f"must be one number of pixels for a square, or [H, W], each from {SMALLEST} to {LARGEST}"
        )
    return sides[0], sides[1]


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and SMALLEST <= value <= LARGEST


def as_setting(size: Size) -> int | list[int]:
    """The shortest form of a size in a config: one number for a square, else [H, W].

    >>> as_setting((64, 64)), as_setting((48, 64))
    (64, [48, 64])
    """
    height, width = size
    return height if height == width else [height, width]


def in_words(size: Size) -> str:
    """A size for a message: "64 px" for a square, else width x height, as "64 x 48 px"."""
    height, width = size
    return f"{height} px" if height == width else f"{width} x {height} px"


def setting_text(size: Size) -> str:
    """A size as it is typed on the command line: 64, or [48,64].

    >>> setting_text((64, 64)), setting_text((48, 64))
    ('64', '[48,64]')
    """
    return str(as_setting(size)).replace(" ", "")


def crop_of(height: int, width: int, aspect: Size) -> Size:
    """The size of the largest part of an image of height x width pixels with the aspect ratio of `aspect`.

    >>> crop_of(100, 150, (64, 64)), crop_of(100, 150, (32, 64))
    ((100, 100), (75, 150))
    """
    if width * aspect[0] > height * aspect[1]:
        return height, max(1, round(height * aspect[1] / aspect[0]))
    return max(1, round(width * aspect[0] / aspect[1])), width


def lost_share(height: int, width: int, aspect: Size) -> float:
    """The share of the area of an image that `crop_of` cuts off, from 0 to 1.

    >>> lost_share(100, 200, (64, 64))
    0.5
    """
    kept = crop_of(height, width, aspect)
    return 1 - kept[0] * kept[1] / (height * width)


# ------------------------------------------------------------------------------------------------- buckets
SMALLEST_SHARE = 0.9
"""Least area of a bucket of `equal_area`, as a share of the largest one."""


def equal_area(side: int, step: int, max_ratio: float) -> list[Size]:
    """Sizes (H, W) of nearly equal area, from the narrowest to the widest.

    Both sides are multiples of `step`, the area is above 0.9 side^2 and at most side^2, and the longer side
    is at most `max_ratio` times the shorter one.

    With 1024, 64 and 4 these are the 41 buckets of SDXL (Podell et al. 2307.01952, appendix I).

    >>> equal_area(64, 16, 2)
    [(80, 48), (64, 64), (48, 80)]
    """
    area, sides = side * side, range(step, int(side * max_ratio) + 1, step)
    pairs = ((height, width) for height in sides for width in sides)
    sizes = [size for size in pairs if SMALLEST_SHARE * area < size[0] * size[1] <= area]
    return in_order(size for size in sizes if max(size) <= max_ratio * min(size))


def in_order(sizes: Iterable[Size]) -> list[Size]:
    """Sizes from the narrowest to the widest."""
    return sorted(sizes, key=lambda size: size[1] / size[0])


def bucket_of(height: int, width: int, sizes: Sequence[Size]) -> int:
    """The position of the size whose aspect ratio is nearest to that of an image, on a logarithmic scale.

    >>> bucket_of(300, 500, [(80, 48), (64, 64), (48, 80)])
    2
    """
    ratio = math.log(width / height)
    return min(range(len(sizes)), key=lambda i: abs(math.log(sizes[i][1] / sizes[i][0]) - ratio))
