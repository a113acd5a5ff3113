"""Runs of random pixels, and single cells read back from their sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from difflab.config import parse
from difflab.core.files import write_json
from difflab.plots.sheet import BETWEEN, CELL, GAP, font
from difflab.runs.run import Run

SIDE = 8
FACTOR = CELL // SIDE
PLAIN = ["a", "b", "c"]


def made(
    path: Path,
    classes: list[str] | None,
    per: int = 2,
    generations: int = 3,
    held: list[int] | None = None,
    channels: int = 1,
) -> Run:
    """A run of random pixels: a probe of `per` images per class (or eight of no class) in every generation, three held-out images a class."""
    rng = np.random.default_rng(0)
    conditional = classes is not None
    config = {
        "name": "made",
        "generations": generations - 1,
        "model": {"family": "pixel-mlp", "conditional": conditional},
        "probe": {"per_condition": per},
        "sample": {"count": 2},
    }
    run = Run(path, parse(config))
    record = (SIDE, SIDE, channels)
    labels = (held if held is not None else sorted([*range(len(classes))] * 3)) if classes else [None] * 6
    names = [None if label is None else classes[label] for label in labels]  # type: ignore[index]
    about = {
        "n_train": 2,
        "n_held_out": len(labels),
        "record": list(record),
        "shard_size": 1000,
        "classes": classes,
    }
    write_json(path / "real" / "about.json", about)
    first = [0 if classes else None, 0 if classes else None]
    columns = {"generation": -1, "label": [*first, *labels], "class": [*[classes and classes[0]] * 2, *names]}
    run.real.write(0, rng.integers(0, 256, (2 + len(labels), *record), dtype=np.uint8), columns)
    asked = [c for c in range(len(classes)) for _ in range(per)] if classes else [None] * (8 * per)
    for t in range(generations):
        pixels = rng.integers(0, 256, (len(asked), *record), dtype=np.uint8)
        own = {"label": asked, "class": [classes[c] for c in asked]} if classes else {}  # type: ignore[index]
        run.probe(t, len(asked)).write(0, pixels, {"generation": t, "seed": list(range(len(asked))), **own})
        run.samples(t).write(0, pixels[:2], {"generation": t, "seed": [0, 1]})
        write_json(run.gen(t) / "sampled.json", {"probe": len(asked)})
    return run


def beside(picture: Image.Image, row: int, column: int, per: int = 2) -> np.ndarray:
    """The same in a strip, whose rows have labels and whose columns stand in groups of `per`."""
    return cell(
        picture,
        row,
        column,
        left=16 + int(font(14).getlength("generation 0")) + (column // per * BETWEEN if per > 1 else 0),
    )


def cell(picture: Image.Image, row: int, column: int, channels: int = 1, left: int = 16) -> np.ndarray:
    """The image in one cell; rows are counted from below (-1 is the last), columns from `left`."""
    x, y = left + column * (CELL + GAP), picture.height - 12 + row * (CELL + GAP)
    shown = np.asarray(picture.crop((x, y, x + CELL, y + CELL)))
    small = shown[::FACTOR, ::FACTOR]
    assert (np.kron(small, np.ones((FACTOR, FACTOR, 1), np.uint8)) == shown).all()  # hard edges, whole pixels
    assert channels == 3 or (small[..., 0] == small[..., 2]).all()
    return small[..., :channels]
