"""The extractor `watermark:KEY`: which chips of a spread-spectrum watermark agree with a key, in every image.

    watermark:7                           the mark of key 7, see spread_spectrum.py
    watermark:7,chip=2                    with chips of 2 x 2 pixels
    watermark:7,after=jpeg50              after a change of the images, see altered.py

The measures of difflab/metrics/watermark.py read its features and no other features. It needs no policy: on
a run without a watermark its numbers follow the law of images without a mark.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.features.altered import check_change, open_change
from difflab.features.extractor import Extractor
from difflab.features.spread_spectrum import CHIPS, agreements

FORM = "watermark:KEY, watermark:KEY,chip=N or watermark:KEY,after=CHANGE"


@dataclass(frozen=True)
class Reading:
    """What a spec asks for: the key, the side of a chip in pixels, the change before reading ('' = none)."""

    key: int
    chip: int = 1
    after: str = ""


def parse_reading(argument: str) -> Reading:
    """The part of a spec behind ``watermark:``. Raises MeasureError.

    >>> parse_reading("7,chip=2,after=jpeg50")
    Reading(key=7, chip=2, after='jpeg50')
    """
    key, *options = argument.split(",")
    if not key.isdecimal():
        raise MeasureError(
            f"the extractor watermark needs the key of the mark, a number from 0 on, got '{key}': {FORM}"
        )
    settings: dict[str, Any] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name == "chip" and value.isdecimal() and int(value) >= 1:
            settings["chip"] = int(value)
        elif name == "after":
            check_change(value)
            settings["after"] = value
        else:
            raise MeasureError(f"watermark:{argument}: '{option}' is unknown; write {FORM}")
    return Reading(int(key), **settings)


def open_watermark(argument: str) -> Extractor:
    """The extractor of the spec ``watermark:ARGUMENT``. It runs on the CPU whatever the device."""
    reading = parse_reading(argument)
    recipe: dict[str, Any] = {
        "input": "own size",
        "dtype": "int32",
        "key": reading.key,
        "chip": reading.chip,
        "after": reading.after.partition(":")[0],
    }
    change = None
    if reading.after:
        change, more = open_change(reading.after)
        recipe |= more

    def encode(images_NCHW: Tensor) -> Tensor:
        images = images_NCHW.permute(0, 2, 3, 1).contiguous()
        return agreements(images if change is None else change(images), reading.key, reading.chip)

    return Extractor(f"watermark:{_without_folders(argument)}", CHIPS, recipe, encode, "cpu")


def _without_folders(argument: str) -> str:
    before, vae, place = argument.partition("vae:")
    path, comma, rest = place.partition(",")
    return before + vae + Path(path).name + comma + rest
