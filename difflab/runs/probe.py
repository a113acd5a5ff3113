"""The probe of a run: a fixed list of conditions, drawn with the same seeds in every generation, to be looked
at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from difflab.core.errors import StoreError
from difflab.core.files import read_json
from difflab.plots.sheet import sheet
from difflab.runs.folder import RunFolder, Sampled

STRIP = 24  # columns of a strip at most


def probe_images(run: RunFolder, generation: int) -> tuple[np.ndarray, list[str | None]]:
    """Images [n, H, W, C] of the probe of one generation and what was asked for, class or caption.

    Raises StoreError when there is none.
    """
    if generation < 0 or not run.done(generation, "sample"):
        there = [t for t in range(run.config.generations + 1) if run.done(t, "sample")]
        raise StoreError(f"{run.path} has no pictures of generation {generation}; it has {there or 'none'}")
    count = read_json(run.gen(generation) / "sampled.json", Sampled)["probe"]
    if not count:
        raise StoreError(f"{run.path} has no pictures: its family draws numbers, or probe.per_condition is 0")
    shards = run.probe(generation, count)
    return np.concatenate([shards.decode(k) for k in shards.shards]), shards.column(asked_column(run))


def asked_column(run: RunFolder) -> str:
    """The column of the ledger that says what an image was asked to be."""
    return "prompt" if run.config.text and run.config.conditional else "class"


def grid(run: RunFolder, generation: int) -> Image.Image:
    """The probe of one generation: a column per class (conditional), else rows of eight."""
    images, classes = probe_images(run, generation)
    title = f"{run.config.name}: generation {generation}"
    per = run.config.probe.per_condition
    if classes[0] is None:
        return sheet([("", list(images[i : i + 8])) for i in range(0, len(images), 8)], title=title)
    return sheet(
        [("", list(images[row::per])) for row in range(per)], [c or "" for c in classes[::per]], title
    )


@dataclass(frozen=True)
class SameSeeds:
    """asked: the class or caption of each column, None = unconditional. per: columns of one class in a row.
    real: held-out images of the same classes, uint8 [n, H, W, C]. generations: the samples [n, H, W, C] of
    each.
    """

    asked: list[str | None]
    per: int
    real: np.ndarray
    generations: dict[int, np.ndarray]


def same_seeds(run: RunFolder, most: int = STRIP) -> SameSeeds:
    """The probe of every generation, at most `most` columns. Where all classes do not fit, some are shown,
    evenly spread over the list.

    Images of one class stand together, since what is lost first is the difference between them. Raises
    StoreError when there are no pictures.
    """
    done = [t for t in range(run.config.generations + 1) if run.done(t, "sample")]
    _, classes = probe_images(run, done[0] if done else 0)
    per = run.config.probe.per_condition if classes[0] is not None else 1
    groups = len(classes) // per
    shown = np.unique(np.linspace(0, groups - 1, min(groups, max(1, most // per))).round().astype(int))
    columns = (shown[:, None] * per + np.arange(per)).ravel()
    asked = [classes[c] for c in columns]
    return SameSeeds(asked, per, _real_like(run, asked), {t: probe_images(run, t)[0][columns] for t in done})


def strip(run: RunFolder) -> Image.Image:
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


def caption(run: RunFolder) -> str:
    """What the chain is, in a few words."""
    c = run.config
    words = [
        c.model.shown_name,
        c.regime.name,
        f"start from {c.train.start_from}",
    ]
    if c.conditional:
        words.append(f"guidance {c.sample.guidance_scale:g}")
    return ", ".join(words)


def _real_like(run: RunFolder, classes: list[str | None]) -> np.ndarray:
    """One held-out image per wanted class, each a different one while there are enough; white where none was
    held out: [n, H, W, C].

    Of a caption it is the image that has it, on whichever side of the split.
    """
    first = run.about["n_train"] if asked_column(run) == "class" else 0
    known = run.real.column(asked_column(run))[first:]
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
