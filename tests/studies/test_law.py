"""A law reads its statistic off the measures of its chain."""

from __future__ import annotations

import numpy as np

from difflab.studies.law import Law, chain


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
