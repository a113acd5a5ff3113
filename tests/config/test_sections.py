from __future__ import annotations

import pytest

from difflab.config import parse


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
