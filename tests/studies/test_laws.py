"""The table of laws: what it covers, and that every chain in it is a valid config.

The chains run in test_theory.
"""

from __future__ import annotations

import math

from difflab.config import parse
from difflab.studies.laws import CHAPTERS, LAWS


def test_the_laws_cover_the_regimes_and_families_with_and_without_bias():
    assert len(LAWS) >= 15
    seen = {
        (law.chain["model"]["family"], law.chain["regime"]["name"], "sampling_bias" in law.chain["model"])
        for law in LAWS.values()
    }
    gaussian = {(regime, bias) for family, regime, bias in seen if family == "gaussian"}
    assert gaussian >= {(r, b) for r in ("replace", "accumulate", "fresh_real") for b in (False, True)} | {
        ("accumulate_subsample", False)
    }
    assert {family for family, _, _ in seen} == {"gaussian", "categorical", "mixture"}


def test_every_law_speaks_of_the_last_generation_of_a_valid_chain():
    for name, law in LAWS.items():
        config = parse(law.chain)
        assert law.fit == config.generations + 1, name
        assert law.what and math.isfinite(law.theory), name


def test_every_chapter_has_laws_of_its_own():
    names: list[str] = []
    for chapter in CHAPTERS:
        names += chapter()
    assert names == list(LAWS) and len(set(names)) == len(names)
