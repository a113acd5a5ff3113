from __future__ import annotations

from typing import Any

import pytest
from config_files import merged

from difflab.config import parse

DIGITS: dict[str, Any] = {"model": {"family": "pixel-mlp"}}


def test_count_of_repeats_the_last_entry():
    how = parse(merged(DIGITS, sample={"count": [20, 30]})).sample
    assert [how.count_of(t) for t in range(4)] == [20, 30, 30, 30]
    assert parse(merged(DIGITS, sample={"count": 7})).sample.count_of(9) == 7


@pytest.mark.parametrize(
    ("measure", "name"),
    [
        ({"extractors": ["texture", "pixels", "inception"]}, "pixels"),
        ({"extractors": ["pixels", "inception"], "judge": "inception"}, "inception"),
        ({"extractors": ["texture"], "metrics": []}, None),
        ({"extractors": [], "metrics": []}, None),
    ],
)
def test_the_class_judge_reads_the_extractor_of_its_field_or_the_first_but_texture(
    measure: dict[str, object], name: str | None
) -> None:
    config = parse({"model": {"family": "memoriser"}, "measure": measure})
    assert config.measure.judge_extractor == name
