"""The table of all rows of metrics.jsonl: the measures in `METRICS` and the rows that other modules make."""

from __future__ import annotations

import re

from difflab.core.rows import RowKind
from difflab.loop import ecosystem, image_rows, training_loop, training_rows
from difflab.metrics import METRICS, PairMetric, frechet, held_out_loss
from difflab.metrics.judge_drift import ROWS as JUDGE_ROWS
from difflab.models import categorical, gaussian, mixture

DECLARED = (
    *JUDGE_ROWS,
    *frechet.ROWS,
    *image_rows.ROWS,
    *training_rows.ROWS,
    *held_out_loss.ROWS,
    *training_loop.ROWS,
    *ecosystem.ROWS,
    *gaussian.ROWS,
    *categorical.ROWS,
    *mixture.ROWS,
)
"""The kinds of the rows that no `PairMetric` makes. Each module declares the kinds of its rows in `ROWS`."""
ABOUT_CHARACTERS = 240
"""The largest number of characters that are taken from the docstring of a measure."""


def row_kinds() -> dict[str, RowKind]:
    """The kind of every row by its name, with all measures that are in `METRICS` at the time of the call.

    >>> kinds = row_kinds()
    >>> kinds["recall"].better, kinds["judge_rebased"].unit, kinds["gradient_norm"].counts
    ('higher', 'share of samples', 'steps')
    """
    measures = {name: _of_measure(measure) for name, measure in METRICS.items()}
    return measures | {kind.name: kind for kind in DECLARED}


def _of_measure(measure: type[PairMetric]) -> RowKind:
    about = first_sentence(measure.__doc__ or "")
    return RowKind(measure.name, measure.unit, measure.better, about, measure.topic)


def first_sentence(docstring: str) -> str:
    """The first paragraph of a docstring as plain text.

    A text of `ABOUT_CHARACTERS` characters or more is cut after a word and ends in an ellipsis.
    """
    text = re.sub(r"\s+", " ", docstring.split("\n\n")[0].replace("`", "")).strip()
    if len(text) < ABOUT_CHARACTERS:
        return text
    return text[:ABOUT_CHARACTERS].rsplit(" ", 1)[0] + " …"
