"""What a measure is called in the rows of metrics.jsonl.

A row has the name of its measure, with one exception: the Frechet distance `fd` is called `fid` on Inception
features.
"""

from __future__ import annotations


def row_name(measure: str, extractor: str) -> str:
    """The name in metrics.jsonl of `measure` on the extractor of that name.

    >>> row_name("fd", "inception"), row_name("fd", "pixels")
    ('fid', 'fd')
    """
    return "fid" if measure == "fd" and extractor.startswith("inception") else measure


def measure_name(row_name: str) -> str:
    """The name in METRICS of the measure that rows of this name hold.

    >>> measure_name("fid"), measure_name("recall")
    ('fd', 'recall')
    """
    return "fd" if row_name == "fid" else row_name
