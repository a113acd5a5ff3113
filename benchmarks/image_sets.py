"""Labelled image sets for benchmarks/diagnosis.py: those of difflab, and two that are drawn here.

    python benchmarks/image_sets.py tiles letters      # a sheet of each as PNG, and the class sizes

`tiles` are like the tiles of a game: 40 classes of very unequal size, 32 px, colour, flat palettes, hard edges.
`letters` are like scanned type: 26 classes in the proportions of English text (to the power 3/4), 28 px, grey, many
fonts, smooth lighting. Both are drawn with the fonts that matplotlib ships, from one seed, so that they are the same on
every machine with the same versions of Pillow and matplotlib.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from difflab.config import Data
from difflab.core.seeds import numpy_generator
from difflab.data.registry import open_source

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@dataclass(frozen=True)
class ImageSet:
    """Attributes: pixels uint8 [N, H, W, C]; labels int64 [N]; names of the classes; extractors to diagnose with."""

    pixels: np.ndarray
    labels: np.ndarray
    classes: list[str]
    extractors: tuple[str, ...]


# ------------------------------------------------------------------------------------------------- game tiles
TILE, N_TILES = 32, 6400
TILE_CLASSES = {
    "king": "♚", "queen": "♛", "tower": "♜", "bishop": "♝", "horse": "♞", "pawn": "♟",
    "spade": "♠", "club": "♣", "heart": "♥", "diamond": "♦", "sun": "☀", "cloud": "☁",
    "umbrella": "☂", "snowman": "☃", "comet": "☄", "star": "★", "phone": "☎", "skull": "☠",
    "radiation": "☢", "biohazard": "☣", "peace": "☮", "yinyang": "☯", "frown": "☹", "smile": "☺",
    "moon": "☾", "anchor": "⚓", "swords": "⚔", "scales": "⚖", "gear": "⚙", "atom": "⚛",
    "warning": "⚠", "bolt": "⚡", "scissors": "✂", "plane": "✈", "envelope": "✉", "pencil": "✎",
    "cross": "✚", "flower": "✿", "snowflake": "❄", "note": "♫",
}  # fmt: skip
"""40 classes, the most frequent first."""
TERRAINS = {
    "grass": ((58, 110, 52), (72, 128, 60), (48, 92, 46)),
    "stone": ((112, 110, 104), (128, 126, 118), (92, 90, 88)),
    "sand": ((206, 178, 118), (220, 194, 134), (188, 158, 102)),
    "water": ((52, 96, 156), (66, 114, 174), (44, 80, 138)),
    "wood": ((120, 82, 48), (138, 96, 58), (100, 66, 40)),
}
MATERIALS = (
    (214, 178, 60), (190, 190, 200), (176, 60, 52), (84, 60, 150), (60, 150, 140), (230, 120, 50), (236, 226, 200),
    (110, 170, 70), (200, 90, 150),
)  # fmt: skip


def tiles() -> ImageSet:
    """6,400 tiles: a sprite in one of three materials of its class, on one of two terrains of its class."""
    weights = 1 / (np.arange(len(TILE_CLASSES)) + 3.0) ** 0.9
    rng = numpy_generator("tiles")
    labels = rng.choice(len(TILE_CLASSES), N_TILES, p=weights / weights.sum())
    pixels = np.stack([_tile(int(label), rng) for label in labels])
    return ImageSet(pixels, labels.astype(np.int64), list(TILE_CLASSES), ("pixels", "efficientnet-lite0"))


def _tile(label: int, rng: np.random.Generator) -> np.ndarray:
    """One tile uint8 [32, 32, 3]."""
    terrains, of_class = list(TERRAINS.values()), numpy_generator("tile class", label)
    ground = np.array(terrains[of_class.permutation(len(terrains))[rng.integers(2)]])
    material = np.array(MATERIALS[of_class.permutation(len(MATERIALS))[rng.integers(3)]])
    tones = ground[rng.choice(3, (TILE, TILE), p=(0.7, 0.18, 0.12))] * rng.uniform(0.92, 1.06)
    image = tones * np.array([1.08, 1.03, 0.97, 0.92])[np.arange(TILE) // 8, None, None]
    mask = _sprite(list(TILE_CLASSES.values())[label], rng)
    rim = np.asarray(Image.fromarray(mask).filter(ImageFilter.MaxFilter(3)))
    lit = mask & ~np.roll(mask, (1, 1), (0, 1))
    shaded = mask & ~np.roll(mask, (-1, -1), (0, 1))
    colour = material * rng.uniform(0.9, 1.1)
    image[rim > 0] = (28, 24, 30)
    depth = 1.15 - 0.035 * (np.arange(TILE) // 3)  # flat steps downwards
    for part, gain in ((mask, 1.0), (lit, 1.3), (shaded, 0.65)):
        rows, columns = np.nonzero(part)
        image[rows, columns] = colour * (gain * depth[rows])[:, None]
    return image.round().clip(0, 255).astype(np.uint8)


def _sprite(glyph: str, rng: np.random.Generator) -> np.ndarray:
    """The glyph as a mask uint8 [32, 32] of 0 and 255: turned by up to 12 degrees, mirrored, moved, resized."""
    canvas = Image.new("L", (TILE, TILE))
    font = _font("DejaVuSans.ttf", int(rng.integers(23, 30)))
    at = TILE / 2 + rng.integers(-2, 3, 2)
    ImageDraw.Draw(canvas).text(tuple(at.tolist()), glyph, fill=255, font=font, anchor="mm")
    canvas = canvas.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BILINEAR)
    mask = np.where(np.asarray(canvas) > 110, 255, 0).astype(np.uint8)
    return mask[:, ::-1].copy() if rng.random() < 0.5 else mask


# ------------------------------------------------------------------------------------------------- letters
LETTER, N_LETTERS = 28, 6400
ENGLISH = {
    "e": 12.70, "t": 9.06, "a": 8.17, "o": 7.51, "i": 6.97, "n": 6.75, "s": 6.33, "h": 6.09, "r": 5.99, "d": 4.25,
    "l": 4.03, "c": 2.78, "u": 2.76, "m": 2.41, "w": 2.36, "f": 2.23, "g": 2.02, "y": 1.97, "p": 1.93, "b": 1.49,
    "v": 0.98, "k": 0.77, "j": 0.15, "x": 0.15, "q": 0.10, "z": 0.07,
}  # fmt: skip
"""Percent of the letters of English text."""
LETTER_FONTS = (
    "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSans-BoldOblique.ttf",
    "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSansMono-Oblique.ttf", "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf", "DejaVuSerif-BoldItalic.ttf", "STIXGeneral.ttf",
    "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf", "STIXGeneralBolIta.ttf", "cmr10.ttf", "cmss10.ttf", "cmtt10.ttf",
)  # fmt: skip


def letters() -> ImageSet:
    """6,400 letters in 18 fonts: dark ink on paper with a gradient of light, slightly turned and blurred."""
    weights = np.array(list(ENGLISH.values())) ** 0.75
    rng = numpy_generator("letters")
    labels = rng.choice(len(ENGLISH), N_LETTERS, p=weights / weights.sum())
    pixels = np.stack([_letter(list(ENGLISH)[label], rng) for label in labels])
    return ImageSet(pixels[..., None], labels.astype(np.int64), list(ENGLISH), ("pixels",))


def _letter(letter: str, rng: np.random.Generator) -> np.ndarray:
    """One letter uint8 [28, 28]."""
    side = 2 * LETTER
    canvas = Image.new("L", (side, side))
    font = _font(str(rng.choice(LETTER_FONTS)), int(rng.integers(36, 50)))
    at = side / 2 + rng.integers(-4, 5, 2)
    ImageDraw.Draw(canvas).text(tuple(at.tolist()), letter, fill=255, font=font, anchor="mm")
    canvas = canvas.rotate(float(rng.uniform(-10, 10)), Image.Resampling.BICUBIC)
    coverage = np.asarray(canvas.resize((LETTER, LETTER), Image.Resampling.BOX), dtype=float) / 255
    y, x = np.mgrid[-1 : 1 : LETTER * 1j, -1 : 1 : LETTER * 1j]
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(5, 30)
    paper = rng.uniform(190, 225) + strength * (np.cos(angle) * x + np.sin(angle) * y)
    ink = rng.uniform(20, 80)
    values = paper * (1 - coverage) + ink * coverage + rng.normal(0, 2, paper.shape)
    return values.round().clip(0, 255).astype(np.uint8)


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONTS / file), size, layout_engine=ImageFont.Layout.BASIC)


# ------------------------------------------------------------------------------------------------- all sets
DRAWN = {"tiles": tiles, "letters": letters}
SIZES = {"photos": 16}
"""Smaller patches, of which there are more."""
COLOUR = ("emoji", "photos")


def open_set(name: str) -> ImageSet:
    """The images of a bundled source or of a set that is drawn here."""
    if name in DRAWN:
        return DRAWN[name]()
    source = open_source(Data(source=name, image_size=SIZES.get(name)), 0)
    assert source.labels is not None and source.classes is not None
    pixels = np.stack([source.read(i) for i in range(len(source))])
    extractors = ("pixels", "efficientnet-lite0") if name in COLOUR else ("pixels",)
    return ImageSet(pixels, source.labels, source.classes, extractors)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", default=list(DRAWN))
    for name in parser.parse_args().sets:
        images = open_set(name)
        rows = [np.concatenate(list(images.pixels[i : i + 24]), axis=1) for i in range(0, 288, 24)]
        Image.fromarray(np.concatenate(rows).squeeze()).save(f"{name}.png")
        sizes = np.bincount(images.labels, minlength=len(images.classes))
        print(
            f"{name}.png: {len(images.labels)} images; "
            + ", ".join(f"{c} {n}" for c, n in zip(images.classes, sizes, strict=True))
        )


if __name__ == "__main__":
    main()
