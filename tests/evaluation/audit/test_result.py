"""Words and JSON of a result."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from difflab.evaluation.audit.result import Audit, Example, Kind, Layer, Share, WhatIf
from difflab.metrics.prevalence import Calibration, ShareInterval

LAYER = Layer("declared synthetic", 3, 90, (Kind("iptc\n", 3, Example(7, "a/\x1b.png", "ab")),), "a note")
SHARE = Share(
    0.03, ShareInterval(0.2, 0.15, 0.26, "score interval"), "", 20, 90, Calibration(9, 10, 48, 50), None, 0.1,
    (WhatIf(0.7, 0.04, 0.25), WhatIf(0.2, 0.1, None)),
)  # fmt: skip
AUDIT = Audit(100, 10, 60, (LAYER,), SHARE, ("a note about /home",))


def test_words() -> None:
    text = "\n".join(AUDIT.summary())
    assert "at least 3.0% declare" in text
    assert "20.0% synthetic, 95% interval 15.0% to 26.0%" in text
    assert "detects 9 of 10 with 2 of 50 false positives" in text
    assert (
        "70% with 4.0% false positives: 25.0%" in text
        and "20% with 10.0% false positives: cannot tell" in text
    )
    assert "at least 10.0%" in text
    assert "nothing was found in 60 of 90 images; this does not mean that they are real" in text


def test_table_has_printable_text_only() -> None:
    assert AUDIT.table() == [
        ("declared synthetic", "3", "3.3%", "a note"),
        ("  iptc\\n", "3", "", "such as a/\\x1b.png"),
    ]


def test_json_without_names() -> None:
    content = json.loads(json.dumps(AUDIT.as_dict()))
    assert content["share"]["low"] == 0.15 and content["share"]["estimate"]["high"] == 0.26
    assert content["layers"][0]["kinds"][0]["example"] == {"position": 7, "key_sha256": "ab"}
    assert "notes" not in content
    assert AUDIT.as_dict(keep_text=True)["layers"][0]["kinds"][0]["example"]["key"] == "a/\x1b.png"


def test_it_is_frozen_and_names_its_layers() -> None:
    assert AUDIT["declared synthetic"] is LAYER
    with pytest.raises(KeyError):
        AUDIT["nothing"]
    with pytest.raises(FrozenInstanceError):
        AUDIT.images = 3  # type: ignore[misc]


def test_the_lower_bound_without_an_estimate_is_what_is_declared() -> None:
    assert Share(0.3).low == 0.3 and Share(0.5, SHARE.estimate).low == 0.5
