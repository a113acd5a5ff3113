"""Sheets of small images: rows and columns with labels, drawn with Pillow."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = (255, 255, 255), (25, 25, 30), (120, 120, 128)
CELL = 48  # least side of a shown image in pixels
GAP = 3
BETWEEN = 9  # wider gap between groups of columns
LONGEST = 140  # pixels that the name of a column may take


@lru_cache
def font(size: int) -> Any:
    """DejaVu Sans, which comes with matplotlib and knows more scripts than Pillow's own font."""
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def enlarge(image: np.ndarray, side: int | None = None) -> Image.Image:
    """uint8 [H, W, C] to RGB, small images enlarged by a whole factor with hard pixel edges: nothing is
    smoothed.

    Args:
        side: the shortest side of all images that are shown together; None = of this one.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    factor = max(1, -(-CELL // (side or min(picture.size))))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def sheet(
    rows: list[tuple[str, list[np.ndarray]]], header: list[str] | None = None, title: str = "", group: int = 1
) -> Image.Image:
    """Rows of images, each with a label on its left; every `group` columns stand together under one name of
    `header`.

    A name that is wider than its group stands upright. Smaller images are in the middle of their cell.
    """
    shown = list(chain.from_iterable(images for _, images in rows))
    side = min(min(image.shape[:2]) for image in shown)
    cells = [[enlarge(image, side) for image in images] for _, images in rows]
    cell_width, cell_height = (max(enlarge(image, side).size[axis] for image in shown) for axis in (0, 1))
    columns = max(len(row) for row in cells)
    left = 16 + max(int(font(14).getlength(label)) for label, _ in rows)
    header = [shortened(one_line(name), LONGEST) for name in header or []]
    longest = max((int(font(12).getlength(name)) + 1 for name in header), default=0)
    span = group * (cell_width + GAP) - GAP
    upright = longest > span
    top = 12 + (26 if title else 0) + (longest + 8 if upright else 20 if header else 0)

    def place(column: int) -> int:
        return left + column * (cell_width + GAP) + (column // group * BETWEEN if group > 1 else 0)

    width = max(place(columns - 1) + cell_width + GAP + 12, 24 + int(font(16).getlength(title)))
    canvas = Image.new("RGB", (width, top + len(rows) * (cell_height + GAP) + 12), PAPER)
    pen = ImageDraw.Draw(canvas)
    if title:
        pen.text((12, 8), title, INK, font(16))
    for k, name in enumerate(header):
        middle = place(k * group) + span // 2
        if upright:
            text = Image.new("RGB", (longest, 18), PAPER)
            ImageDraw.Draw(text).text((0, 9), name, FAINT, font(12), anchor="lm")
            canvas.paste(text.rotate(90, expand=True), (middle - 9, top - 4 - longest))
        else:
            pen.text((middle, top - 4), name, FAINT, font(12), anchor="ms")
    for r, (label, _) in enumerate(rows):
        y = top + r * (cell_height + GAP)
        pen.text((left - 8, y + cell_height / 2), label, INK, font(14), anchor="rm")
        for c, cell in enumerate(cells[r]):
            inset = (cell_width - cell.width) // 2, (cell_height - cell.height) // 2
            canvas.paste(cell, (place(c) + inset[0], y + inset[1]))
    return canvas


def one_line(text: str) -> str:
    """One line without control characters: the font cannot draw them, and some reverse the text."""
    return "".join(c if c.isprintable() else " " for c in text[:200]).strip()


def shortened(text: str, width: int) -> str:
    """`text` cut to `width` pixels."""
    while text and font(12).getlength(text) > width:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    return text


def below(pictures: list[Image.Image]) -> Image.Image:
    """Pictures below each other, flush left."""
    canvas = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), PAPER)
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas
