"""What a decision says."""

from __future__ import annotations

import pytest

from difflab.loop.choice import Choice


@pytest.mark.parametrize(
    ("value", "words"),
    [("no", "no (float32)"), ("bf16", "bf16"), (True, "true"), (False, "false")],
)
def test_a_decision_says_its_key_value_and_reason(value: str | bool, words: str) -> None:
    assert str(Choice("train.x", value, "because")) == f"train.x=auto: {words}, because"
