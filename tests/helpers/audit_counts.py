"""Counts of an audit with a given number of flags."""

from __future__ import annotations

from difflab.evaluation.audit.layers import Counts, Tally
from difflab.evaluation.audit.record import Line


def counts_of(flagged: int, n: int, declared: int) -> tuple[Counts, list[str]]:
    """The first `flagged` of n images have a score above .5, the first `declared` declare that they are synthetic."""
    lines = []
    for i in range(n):
        found = {"synthetic": "iptc"} if i < declared else {}
        score = 0.9 if i < flagged else 0.1
        lines.append(Line(i, f"k{i}", f"{i + 1:x}", size=(30, 30), format="png", found=found, score=score))
    keys = [f"{i}.png" for i in range(n)]
    counts = Counts(Tally.of(lines, n), keys)
    counts.add_of_one_image(True, True)
    counts.add_probe(0.5)
    return counts, keys
