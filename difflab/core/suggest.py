"""The end of a message about an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an unknown-name error: ``did you mean 'recall'? known: ...``."""
    near = difflib.get_close_matches(name, known, 1, 0.4)
    return (f"did you mean '{near[0]}'? " if near else "") + f"known: {', '.join(known)}"


def nearest_few(name: str, known: Sequence[str]) -> str:
    """As `nearest`, listing only the five nearest names: for lists of hundreds."""
    return nearest(name, difflib.get_close_matches(name, known, 5, 0.0))
