"""The table of laws: what it covers, and that every chain in it is a valid config.

The chains run in test_theory.
"""

from __future__ import annotations

import math

import numpy as np

from difflab.config import parse
from difflab.studies.laws import LAWS, Law, chain


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


def test_a_statistic_is_a_measure_by_name_or_a_function_of_all():
    measures = {"variance": np.array([1.0, 2.0]), "squared_drift": np.array([3.0, 5.0])}
    config = chain("gaussian", 10, 3)
    assert Law("", config, "variance", 1.0).statistic(measures).tolist() == [1.0, 2.0]
    assert Law("", config, lambda m: m["variance"] + m["squared_drift"], 1.0).statistic(
        measures
    ).tolist() == [4.0, 7.0]


def test_a_chain_has_one_generation_less_than_fits_and_as_many_samples_as_points():
    config = chain("gaussian", 10, 3, "fresh_real", real_fraction=0.2, sampling_bias=0.8)
    assert config["generations"] == 2 and config["sample"] == {"count": 10}
    assert config["regime"] == {"name": "fresh_real", "real_fraction": 0.2}
    assert config["model"] == {"family": "gaussian", "sampling_bias": 0.8}
    assert Law("", config, "variance", 1.0).fit == 3
