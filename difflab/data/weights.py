"""The weight of each real image in the loss: a column of the user's table that `data.weight` names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from difflab.core.errors import DataError


def as_weights(values: Sequence[Any], column: str, place: Callable[[int], str]) -> list[float]:
    """The values as numbers of at least 0. Cells of CSV files are texts.

    Raises DataError that names the `place` of the first value that is missing or no such number, and if all
    weights are 0.
    """
    weights = [_weight(value) for value in values]
    for i, weight in enumerate(weights):
        if weight is None:
            raise DataError(
                f"{place(i)}: '{column}', which data.weight names, must be a number of at least 0, not "
                f"{str(values[i])[:40]!a}; correct it, or remove data.weight"
            )
    known = [weight for weight in weights if weight is not None]
    if not any(known):
        raise DataError(f"all weights in '{column}', which data.weight names, are 0; raise some of them")
    return known


def _weight(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        weight = float(value)
    except (ValueError, OverflowError):
        return None
    return weight if math.isfinite(weight) and weight >= 0 else None


def note(weights: np.ndarray) -> str:
    """One sentence about the weights of a source.

    >>> note(np.array([1, 0.5, 0, 1]))
    '2 of 4 images have a weight below the largest one in the loss, 1 of them the weight 0'
    """
    below, none = int((weights < weights.max()).sum()), int((weights == 0).sum())
    return (
        f"{below:,} of {len(weights):,} images have a weight below the largest one in the loss, {none:,} of "
        "them the weight 0"
    )
