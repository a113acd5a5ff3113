"""Numbers as short as a page needs them."""

from __future__ import annotations


def rounded(value: float | None, digits: int = 5) -> float | None:
    """`value` with this many significant digits; None stays None.

    >>> rounded(0.123456789)
    0.12346
    """
    return None if value is None else float(f"{value:.{digits}g}")
