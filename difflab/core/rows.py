"""What the rows of metrics.jsonl are called and what they mean."""

from __future__ import annotations

from dataclasses import dataclass

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
"""What rows can be about, in the order in which a report shows them."""


@dataclass(frozen=True)
class RowKind:
    """The meaning of all rows of metrics.jsonl that have one name.

    Every module that makes rows declares its kinds beside the code that makes them, mostly in a tuple `ROWS`.
    `difflab.loop.row_kinds` collects them together with the measures in `METRICS`.

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
    """One or two sentences for a stranger: what is measured, and on what."""
    topic: str
    """What it is about: one of `TOPICS`."""
    counts: str = "images"
    """What `n` of the row counts: 'images' | 'steps' | 'chains'."""
    title: str = ""
    """The title of its curve where the name alone does not say enough."""

    @property
    def label(self) -> str:
        """The title of its curve."""
        return self.title or self.name.replace("_", " ")
