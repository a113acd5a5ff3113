"""Samples of the same seeds in every generation, as embedded images within the budget of a page."""

from __future__ import annotations

from typing import Any

import numpy as np

from difflab.core.errors import StoreError
from difflab.core.ragged import largest_side
from difflab.report.data_uri import EXACT, encoder
from difflab.runs.probe import same_seeds
from difflab.runs.run import Run

FEWEST_GENERATIONS = 6
"""Generations are left out only as long as more than this number remain."""


def pictures(run: Run, budget: int) -> dict[str, Any] | None:
    """Samples of the same seeds in every generation, and real images; None if a run has no probe images.

    Args:
        budget: largest number of characters of all images together.
    """
    try:
        seeds = same_seeds(run)
    except StoreError:
        return None
    sets = [seeds.real, *seeds.generations.values()]
    count = len(sets) * len(seeds.real)
    examples = [images[i % len(images)] for i, images in enumerate(sets)]
    encode, room = encoder(examples, count, budget)
    shown, columns = select(list(seeds.generations), len(seeds.real), seeds.per, room)
    real = [encode(seeds.real[c]) for c in columns]
    generations = {}
    for t in shown:
        images = seeds.generations[t]
        generations[t] = [encode(images[c]) for c in columns]
    return {
        "asked": [seeds.asked[c] or f"seed {c}" for c in columns],
        "prompted": seeds.asked[0] is not None,
        "per": seeds.per,
        "side": largest_side(seeds.real),
        "fewer": (len(shown), len(sets) - 1, len(seeds.real)) if room < count else None,
        "lossy": largest_side(seeds.real) <= EXACT and real[0].startswith("data:image/webp"),
        "real": real,
        "generations": generations,
    }


def select(generations: list[int], columns: int, per: int, room: int) -> tuple[list[int], list[int]]:
    """The generations and columns to show if only `room` images fit, including the real ones.

    Generations are left out first, evenly spaced, while there are more than `FEWEST_GENERATIONS`. Then
    every second group of `per` columns is left out, but never the last group.

    >>> select(list(range(11)), 4, 2, 28)
    ([0, 2, 4, 6, 8, 10], [0, 1, 2, 3])
    >>> select(list(range(11)), 4, 2, 20)
    ([0, 2, 4, 6, 8, 10], [0, 1])
    """
    rows = min(len(generations), max(FEWEST_GENERATIONS, room // columns - 1))
    groups, step = columns // per, 1
    while len(range(0, groups, step)) > max(1, room // ((rows + 1) * per)):
        step *= 2  # so that the groups of a smaller page are among those of a larger one
    positions = np.linspace(0, len(generations) - 1, rows).round().astype(int)
    kept: list[int] = []
    for group in range(0, groups, step):
        kept += range(group * per, (group + 1) * per)
    return [generations[i] for i in positions], kept


def _column_names(p: dict[str, Any]) -> list[tuple[str, int]]:
    """A name of each column that several runs can share: its prompt or class, and its number in its group."""
    return [(asked, i % p["per"]) for i, asked in enumerate(p["asked"])]


def in_common(shown: list[dict[str, Any]]) -> str:
    """Reduce the pictures of several runs, in place, to the columns that all of them show.

    Returns a sentence for the page that states what is left out or compressed; '' if nothing is.
    """
    names = [_column_names(p) for p in shown]
    shared = set.intersection(*map(set, names))
    fewer = [p["fewer"] for p in shown if p["fewer"]]
    for p, names_of_run in zip(shown, names, strict=True):
        columns = [c for c, name in enumerate(names_of_run) if name in shared]
        if fewer and columns:
            p["asked"] = [p["asked"][c] for c in columns]
            p["real"] = [p["real"][c] for c in columns]
            for t, images in p["generations"].items():
                p["generations"][t] = [images[c] for c in columns]
    if fewer:
        generations, of_generations, of_columns = max(fewer, key=lambda counts: counts[1])
        return (
            "All pictures would make this page too large: it shows "
            f"{generations} of {of_generations} generations "
            f"and {len(shown[0]['asked'])} of {of_columns} columns, compressed."
        )
    if any(p["lossy"] for p in shown):
        return "Pictures are compressed: exact ones would make this page too large."
    return ""
