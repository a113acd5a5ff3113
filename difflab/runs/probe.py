"""Pictures of the probe of a run: samples of fixed conditions with the same seeds in every generation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from PIL import Image

from difflab.core.errors import StoreError
from difflab.core.files import read_json
from difflab.core.ragged import together
from difflab.plots.sheet import sheet
from difflab.runs.folder import RunFolder, Sampled

STRIP = 24  # the largest number of columns of a strip


def probe_images(run: RunFolder, generation: int) -> tuple[np.ndarray, list[str | None]]:
    """The probe of one generation: images uint8 [n, H, W, C], and the class or caption of each image.

    Raises StoreError if the generation has no probe.
    """
    if generation < 0 or not run.done(generation, "sample"):
        sampled = [t for t in range(run.config.generations + 1) if run.done(t, "sample")]
        raise StoreError(f"{run.path} has no pictures of generation {generation}; it has {sampled or 'none'}")
    count = read_json(run.gen(generation) / "sampled.json", Sampled)["probe"]
    if not count:
        raise StoreError(f"{run.path} has no pictures: its family draws numbers, or probe.per_condition is 0")
    shards = run.probe(generation, count)
    parts = chain.from_iterable(shards.decode(k) for k in shards.shards)
    return together(list(parts)), shards.column(asked_column(run))


def asked_column(run: RunFolder) -> str:
    """The column of the ledger with the condition of an image: "prompt" or "class"."""
    return "prompt" if run.config.text and run.config.conditional else "class"


def grid(run: RunFolder, generation: int) -> Image.Image:
    """A picture of the probe of one generation.

    It has a column for each class or caption. Without conditions it has rows of eight images.
    """
    images, classes = probe_images(run, generation)
    title = f"{run.config.name}: generation {generation}"
    per = run.config.probe.per_condition
    if classes[0] is None:
        return sheet([("", list(images[i : i + 8])) for i in range(0, len(images), 8)], title=title)
    rows = [("", list(images[row::per])) for row in range(per)]
    return sheet(rows, [name or "" for name in classes[::per]], title)


@dataclass(frozen=True)
class SameSeeds:
    """Samples with the same seeds in all generations. A column has the same seed and condition in each.

    Attributes:
        asked: the class or caption of each column; None = unconditional.
        per: how many neighbouring columns have the same class.
        real: held-out images of the same classes, uint8 [n, H, W, C].
        generations: the samples of each generation, uint8 [n, H, W, C]; of several sizes see `core.ragged`.
    """

    asked: list[str | None]
    per: int
    real: np.ndarray
    generations: dict[int, np.ndarray]


def same_seeds(run: RunFolder, most: int = STRIP) -> SameSeeds:
    """The probe of every generation, in at most `most` columns, or in those of one class if these are more.

    If not all classes fit, the result has classes that are evenly spread over the list. Images of one class
    are neighbours, because a collapse first removes the differences between them.

    Raises StoreError if there are no pictures.
    """
    done = [t for t in range(run.config.generations + 1) if run.done(t, "sample")]
    _, classes = probe_images(run, done[0] if done else 0)
    per = run.config.probe.per_condition if classes[0] is not None else 1
    groups = len(classes) // per
    shown = np.unique(np.linspace(0, groups - 1, min(groups, max(1, most // per))).round().astype(int))
    columns = (shown[:, None] * per + np.arange(per)).ravel()
    asked = [classes[column] for column in columns]
    generations = {t: probe_images(run, t)[0][columns] for t in done}
    return SameSeeds(asked, per, _real_like(run, asked), generations)


def strip(run: RunFolder) -> Image.Image:
    """A picture with one row per generation. The images of a column have the same seed.

    The first row shows held-out real images of the same classes.
    """
    seeds = same_seeds(run)
    rows = [("real", list(seeds.real))]
    rows += [(f"generation {t}", list(images)) for t, images in seeds.generations.items()]
    header = None
    if seeds.asked[0] is not None:
        header = [name or "" for name in seeds.asked[:: seeds.per]]
    title = f"{run.config.name}: the same seeds in every generation ({caption(run)})"
    return sheet(rows, header, title, seeds.per)


def caption(run: RunFolder) -> str:
    """The model, regime, start and guidance of the chain as a short text."""
    config = run.config
    words = [config.model.shown_name, config.regime.name, f"start from {config.train.start_from}"]
    if config.conditional:
        words.append(f"guidance {config.sample.guidance_scale:g}")
    return ", ".join(words)


def _real_like(run: RunFolder, classes: list[str | None]) -> np.ndarray:
    """A held-out image for each class in the list, uint8 [n, H, W, C].

    An image is used again only when all images of its class are used. A class without held-out images gets a
    white image. For captions, the images of the train split are used too.
    """
    first = run.about["n_train"] if asked_column(run) == "class" else 0
    real_conditions = run.real.column(asked_column(run))[first:]
    positions: dict[str | None, list[int]] = {}
    for i, name in enumerate(real_conditions):
        positions.setdefault(name if classes[0] is not None else None, []).append(first + i)
    times_used: dict[str | None, int] = {}
    images = list(np.full((len(classes), *run.about["record"]), 255, dtype=np.uint8))
    chosen = {}
    for column, name in enumerate(classes):
        if options := positions.get(name):  # the split keeps groups together, so a class can be in train only
            chosen[column] = options[times_used.get(name, 0) % len(options)]
            times_used[name] = times_used.get(name, 0) + 1
    if chosen:
        pixels = run.real.gather(np.array(list(chosen.values()), dtype=np.int64))
        for column, image in zip(chosen, pixels, strict=True):
            images[column] = image
    return together(images)
