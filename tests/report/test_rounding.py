from __future__ import annotations

import pytest

from difflab.report.rounding import rounded


@pytest.mark.parametrize(
    ("value", "digits", "short"),
    [(0.123456, 3, 0.123), (123456.7, 3, 123000.0), (-2.0000001, 5, -2.0), (0.0, 5, 0.0), (None, 5, None)],
)
def test_significant_digits_are_kept(value: float | None, digits: int, short: float | None) -> None:
    assert rounded(value, digits) == short
