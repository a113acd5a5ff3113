"""File names and sizes that are usual for generators. They are hints: a file can be renamed or resized."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
END = r"\.(?:png|jpe?g|webp)$"
NAMES = (
    # default names of the tools; the sources are the tools' own settings of file names
    ("ComfyUI", r"^ComfyUI_(?:temp_\w+_)?\d{5}_" + END),
    ("A1111 or Forge", r"^\d{5}-\d{6,10}(?:-.*)?" + END),
    ("Fooocus", r"^\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d{4}" + END),
    ("InvokeAI", r"^\d{6}\.[0-9a-f]{8}\.\d{6,10}" + END),
    ("NovelAI", r" s-\d{6,10}(?: \(\d+\))?" + END),
    ("Midjourney", rf"^\w+_.+_{UUID}(?:_\d)?{END}"),
    ("DALL-E", r"^DALL[·.\-_ ]?E[ _-]+\d{4}-\d\d-\d\d"),
    ("ChatGPT", r"^ChatGPT[ _]Image[ _]"),
    ("Gemini", r"^Gemini_Generated_Image_"),
    ("Firefly", r"^(?:Adobe )?Firefly[ _]"),
    ("Leonardo", r"^Leonardo_[A-Z]\w+_"),
    ("Bing Image Creator", r"^OIG\d?[._]"),
    ("difflab", r"^gen-\d{3}[-_]\d+" + END),
)
COMPILED = tuple((generator, re.compile(pattern, re.IGNORECASE)) for generator, pattern in NAMES)

# width, height of landscape or square images; the portrait form counts too
SIZES = frozenset(
    (
        *((512, 512), (640, 512), (768, 512), (768, 768)),  # Stable Diffusion 1 and 2
        *((1024, 1024), (1152, 896), (1216, 832), (1344, 768), (1536, 640)),  # SDXL
        *((1792, 1024), (1536, 1024)),  # DALL-E 3, GPT-Image
        *((1456, 816), (1232, 928)),  # Midjourney
    )
)


def generator_of_name(key: str) -> str | None:
    """The generator whose default file names look like the last part of `key`; None for other names.

    >>> generator_of_name("images/ComfyUI_00012_.png"), generator_of_name("IMG_2041.JPG")
    ('ComfyUI', None)
    """
    name = PurePosixPath(key).name[:300]
    return next((generator for generator, pattern in COMPILED if pattern.search(name)), None)


def size_of_generators(height: int, width: int) -> str | None:
    """The size as "WIDTH x HEIGHT" if it is usual for generators, else None.

    >>> size_of_generators(1216, 832), size_of_generators(480, 640)
    ('832 x 1216', None)
    """
    return f"{width} x {height}" if (max(height, width), min(height, width)) in SIZES else None
