"""The size of an image, (height, width) in pixels. In a config it is one number for a square, or [H, W]."""

from __future__ import annotations

from collections.abc import Sequence

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
