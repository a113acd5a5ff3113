"""Pictures to judge with one's eyes: the probe of a generation, and the same seeds down the generations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from difflab.core.errors import StoreError
from difflab.core.files import read_json
from difflab.runs.run import Run, Sampled
from difflab.studies.compare_runs import Arm

PAPER, INK, FAINT = (255, 255, 255), (25, 25, 30), (120, 120, 128)
CELL = 48  # least side of a shown image in pixels
GAP = 3
BETWEEN = 9  # wider gap between groups of columns
STRIP = 24  # columns of a strip at most
LONGEST = 140  # pixels that the name of a column may take


@lru_cache
def font(size: int) -> Any:
    """DejaVu Sans, which comes with matplotlib and knows more scripts than Pillow's own font."""
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def enlarge(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] to RGB, small images enlarged by a whole factor with hard pixel edges: nothing is smoothed."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    factor = max(1, -(-CELL // picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def sheet(
    rows: list[tuple[str, list[np.ndarray]]], header: list[str] | None = None, title: str = "", group: int = 1
) -> Image.Image:
    """Rows of images, each with a label on its left; every `group` columns stand together under one name of `header`.

    A name that is wider than its group stands upright.
    """
    cells = [[enlarge(image) for image in images] for _, images in rows]
    side, columns = cells[0][0].width, max(len(row) for row in cells)
    left = 16 + max(int(font(14).getlength(label)) for label, _ in rows)
    header = [_fit(_plain(name), LONGEST) for name in header or []]
    longest = max((int(font(12).getlength(name)) + 1 for name in header), default=0)
    span = group * (side + GAP) - GAP
    upright = longest > span
    top = 12 + (26 if title else 0) + (longest + 8 if upright else 20 if header else 0)

    def place(column: int) -> int:
        return left + column * (side + GAP) + (column // group * BETWEEN if group > 1 else 0)

    width = max(place(columns - 1) + side + GAP + 12, 24 + int(font(16).getlength(title)))
    canvas = Image.new("RGB", (width, top + len(rows) * (side + GAP) + 12), PAPER)
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
        y = top + r * (side + GAP)
        pen.text((left - 8, y + side / 2), label, INK, font(14), anchor="rm")
        for c, cell in enumerate(cells[r]):
            canvas.paste(cell, (place(c), y))
    return canvas


def _plain(text: str) -> str:
    """One line without control characters, which the font cannot draw and which could turn the text around."""
    return "".join(c if c.isprintable() else " " for c in text[:200]).strip()


def _fit(text: str, width: int) -> str:
    """`text` cut to `width` pixels."""
    while text and font(12).getlength(text) > width:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    return text


def _probe(run: Run, generation: int) -> tuple[np.ndarray, list[str | None]]:
    """Images [n, H, W, C] of the probe of one generation and what was asked for, class or caption. Raises StoreError when there is none."""
    if generation < 0 or not run.done(generation, "sample"):
        there = [t for t in range(run.config.generations + 1) if run.done(t, "sample")]
        raise StoreError(f"{run.path} has no pictures of generation {generation}; it has {there or 'none'}")
    count = read_json(run.gen(generation) / "sampled.json", Sampled)["probe"]
    if not count:
        raise StoreError(f"{run.path} has no pictures: its family draws numbers, or probe.per_condition is 0")
    shards = run.probe(generation, count)
    return np.concatenate([shards.decode(k) for k in shards.shards]), shards.column(_asked(run))


def _asked(run: Run) -> str:
    """The column of the ledger that says what an image was asked to be."""
    return "prompt" if run.config.text and run.config.conditional else "class"


def grid(run: Run, generation: int) -> Image.Image:
    """The probe of one generation: a column per class (conditional), else rows of eight."""
    images, classes = _probe(run, generation)
    title = f"{run.config.name}: generation {generation}"
    per = run.config.probe.per_condition
    if classes[0] is None:
        return sheet([("", list(images[i : i + 8])) for i in range(0, len(images), 8)], title=title)
    return sheet(
        [("", list(images[row::per])) for row in range(per)], [c or "" for c in classes[::per]], title
    )


@dataclass(frozen=True)
class SameSeeds:
    """asked: the class or caption of each column, None = unconditional. per: columns of one class in a row. real: held-out images of the same
    classes, uint8 [n, H, W, C]. generations: the samples [n, H, W, C] of each."""

    asked: list[str | None]
    per: int
    real: np.ndarray
    generations: dict[int, np.ndarray]


def same_seeds(run: Run, most: int = STRIP) -> SameSeeds:
    """The probe of every generation, at most `most` columns. Where all classes do not fit, some are shown, evenly spread over the list.

    Images of one class stand together, since what is lost first is the difference between them. Raises StoreError when there are no pictures.
    """
    done = [t for t in range(run.config.generations + 1) if run.done(t, "sample")]
    _, classes = _probe(run, done[0] if done else 0)
    per = run.config.probe.per_condition if classes[0] is not None else 1
    groups = len(classes) // per
    shown = np.unique(np.linspace(0, groups - 1, min(groups, max(1, most // per))).round().astype(int))
    columns = (shown[:, None] * per + np.arange(per)).ravel()
    asked = [classes[c] for c in columns]
    return SameSeeds(asked, per, _real_like(run, asked), {t: _probe(run, t)[0][columns] for t in done})


def strip(run: Run) -> Image.Image:
    """The same seeds down the generations; the first row is held-out real images of the same classes."""
    seeds = same_seeds(run)
    rows = [
        ("real", list(seeds.real)),
        *((f"generation {t}", list(images)) for t, images in seeds.generations.items()),
    ]
    header = [name or "" for name in seeds.asked[:: seeds.per]] if seeds.asked[0] is not None else None
    return sheet(
        rows, header, f"{run.config.name}: the same seeds in every generation ({caption(run)})", seeds.per
    )


def arm_strip(arms: Sequence[Arm], generation: int | None = None) -> Image.Image:
    """The same seeds in one generation of several arms, a row for each by its name; above them held-out real images and the first arm's generation 0.

    Of each arm it is the run of the smallest seed of training that all have.

    Args:
        generation: None = the last that all of these runs have drawn.

    Raises:
        StoreError: the arms have no seed in common, one has no pictures of the generation, or was asked for others than the first.
    """
    trained = set.intersection(*(set(arm.runs) for arm in arms)) if arms else set()
    if not trained:
        raise StoreError("the arms have no seed in common, so there are no pictures of the same seeds")
    seeds = {arm.name: same_seeds(arm.runs[min(trained)]) for arm in arms}
    shared = set.intersection(*(set(own.generations) for own in seeds.values()))
    t = max(shared, default=-1) if generation is None else generation
    first = next(iter(seeds.values()))
    for name, own in seeds.items():
        if t not in own.generations:
            raise StoreError(
                f"{name} has no pictures of generation {max(t, 0)}; all have {sorted(shared) or 'none'}"
            )
        if (own.asked, own.real.shape) != (first.asked, first.real.shape):
            raise StoreError(
                f"{name} was asked for other images than {next(iter(seeds))}: they cannot stand in columns"
            )
    rows = [
        ("real", first.real),
        ("generation 0", first.generations[0]),
        *((_fit(_plain(name), 2 * LONGEST), own.generations[t]) for name, own in seeds.items()),
    ]
    header = [name or "" for name in first.asked[:: first.per]] if first.asked[0] is not None else None
    return sheet(
        [(name, list(images)) for name, images in rows],
        header,
        f"the same seeds in generation {t} of each arm",
        first.per,
    )


def below(pictures: list[Image.Image]) -> Image.Image:
    """Pictures below each other, flush left."""
    canvas = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), PAPER)
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def caption(run: Run) -> str:
    """What the chain is, in a few words."""
    c = run.config
    words = [
        Path(getattr(c.model, "base", c.model.family)).name,
        c.regime.name,
        f"start from {c.train.start_from}",
    ]
    if c.conditional:
        words.append(f"guidance {c.sample.guidance_scale:g}")
    return ", ".join(words)


def _real_like(run: Run, classes: list[str | None]) -> np.ndarray:
    """One held-out image per wanted class, each a different one while there are enough; white where none was held out: [n, H, W, C].

    Of a caption it is the image that has it, on whichever side of the split.
    """
    first = run.about["n_train"] if _asked(run) == "class" else 0
    known = run.real.column(_asked(run))[first:]
    places: dict[str | None, list[int]] = {}
    for i, name in enumerate(known):
        places.setdefault(name if classes[0] is not None else None, []).append(first + i)
    taken: dict[str | None, int] = {}
    out = np.full((len(classes), *run.about["record"]), 255, dtype=np.uint8)
    picks = {}
    for column, name in enumerate(classes):
        if options := places.get(name):  # a class of a single group of images can be in the train split only
            picks[column] = options[taken.get(name, 0) % len(options)]
            taken[name] = taken.get(name, 0) + 1
    out[list(picks)] = run.real.gather(np.array(list(picks.values()), dtype=np.int64))
    return out
