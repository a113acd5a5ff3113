"""The rows of metrics.jsonl: their keys, reading and writing, names and meanings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difflab.core.errors import StoreError
from difflab.core.files import write_text

Row = dict[str, Any]
"""One number of one generation. Its keys are `KEYS`."""
KEYS = (
    "generation",
    "lab",
    "metric",
    "extractor",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "floor",
    "recipe",
    "reason",
)


def row(
    generation: int,
    metric: str,
    extractor: str,
    value: float | None,
    ci: tuple[float, float] | None,
    n: int,
    floor: float | None,
    recipe: str,
    reason: str | None = None,
) -> Row:
    """One row of lab 0.

    ci: the 95% interval. n: number of images, steps or chains. recipe: the hash of everything that determines
    the number. reason: why the value is missing, if it is.
    """
    low, high = ci if ci else (None, None)
    values = (generation, 0, metric, extractor, value, low, high, n, floor, recipe, reason)
    return dict(zip(KEYS, values, strict=True))


def write_lines(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON lines."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


TOPICS = (
    "Diversity",
    "Concepts",
    "Fidelity",
    "Aesthetics and texture",
    "Tails and likelihood",
    "Memorisation",
    "Between labs",
    "Fitted distribution",
    "Other",
    "Training",
)
"""Topics of rows, in the order of a report."""

STATISTICS = ("texture", "artefacts")
"""Extractors whose features are statistics of the look of an image. Each has measures of its own, which read
no other features, and no other measure reads these.
"""
KEYED = ("watermark",)
"""As `STATISTICS`, for extractors whose spec goes on with a key after a colon."""


def statistics_of(spec: str) -> str | None:
    """The name in `STATISTICS` or `KEYED` of the extractor that a spec opens; None = it gives features.

    >>> statistics_of("texture"), statistics_of("watermark:7"), statistics_of("pixels")
    ('texture', 'watermark', None)
    """
    name = spec.partition(":")[0]
    return name if name in KEYED or spec in STATISTICS else None


def spec_of(name: str) -> str:
    """The form of the spec of an extractor of statistics, for messages: watermark:KEY for watermark."""
    return f"{name}:KEY" if name in KEYED else name


@dataclass(frozen=True)
class RowKind:
    """The meaning of all rows of metrics.jsonl that have one name.

    Every module that makes rows declares their kinds, mostly in a tuple `ROWS`. `difflab.loop.row_kinds`
    collects them together with the measures in `METRICS`.

    >>> RowKind("train_loss", unit="loss", better="none", about="Mean loss.", topic="Training").label
    'train loss'
    """

    name: str
    """The value of `metric` in the row."""
    unit: str
    """What the number counts, for example 'share of samples'."""
    better: str
    """'higher' | 'lower' | 'real' (best at the value between two sets of real images) | 'none'."""
    about: str
    """One or two sentences for a stranger: what is measured, and on which data."""
    topic: str
    """One of `TOPICS`."""
    counts: str = "images"
    """What `n` of the row counts: 'images' | 'steps' | 'chains'."""
    title: str = ""
    """The title of the curve, if it should not be the name."""

    @property
    def label(self) -> str:
        """The title of the curve."""
        return self.title or self.name.replace("_", " ")


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl file. Raises StoreError if it is missing or damaged."""
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if not all(isinstance(row, dict) and {"generation", "metric", "value"} <= row.keys() for row in rows):
            raise ValueError("a line is not a row of measures")
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}); delete it and run the same command again") from error
    return rows
