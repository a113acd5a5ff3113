"""Hints for messages about an unknown name: the most similar known names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def closest(name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """At most `count` names of `known` that are similar to `name`, the most similar first.

    cutoff: the lowest accepted similarity, from 0 to 1, as `difflib.SequenceMatcher.ratio` measures it. With
    0 every name is accepted.

    >>> closest("recal", ["recall", "precision"])
    ['recall']
    """
    return difflib.get_close_matches(name, list(known), count, cutoff)


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A question with the most similar known name; "" if none is similar enough.

    >>> did_you_mean("recal", ["recall", "precision"])
    "did you mean 'recall'?"
    """
    for match in closest(name, known, cutoff=cutoff):
        return f"did you mean '{match}'?"
    return ""


def nearest(name: str, known: Sequence[str], cutoff: float = 0.4) -> str:
    """The end of an error about an unknown name: the most similar name, if there is one, and all known names.

    >>> nearest("recal", ["recall", "precision"])
    "did you mean 'recall'? known: recall, precision"
    """
    listing = f"known: {', '.join(known)}"
    return f"{did_you_mean(name, known, cutoff)} {listing}".lstrip()


def nearest_few(name: str, known: Sequence[str]) -> str:
    """The same as `nearest`, but only the five most similar names are listed.

    For lists of hundreds of names.
    """
    return nearest(name, closest(name, known, 5, 0.0))
