"""What a misspelt name was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest_of(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like `name`; None = none is like it. `cutoff`: least similarity, from 0 to 1."""
    near = difflib.get_close_matches(name, list(known), 1, cutoff)
    return near[0] if near else None


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: ``did you mean 'recall'? known: ...``."""
    names = list(known)
    near = nearest_of(name, names, 0.4)
    return (f"did you mean '{near}'? " if near else "") + f"known: {', '.join(names)}"


def nearest_few(name: str, known: Iterable[str]) -> str:
    """As `nearest`, but only the five nearest names are listed: for lists of hundreds."""
    return nearest(name, difflib.get_close_matches(name, list(known), 5, 0.0))
