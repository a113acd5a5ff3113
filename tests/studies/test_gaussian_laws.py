"""Laws of Gaussians agree where one is a special case of another. The chains run in test_theory."""

from __future__ import annotations

import numpy as np
import pytest

from difflab.studies import gaussian_laws


def test_maximum_likelihood_conserves_variance_plus_squared_drift():
    laws = gaussian_laws.replace() | gaussian_laws.accumulate() | gaussian_laws.fresh_real()
    for name in ("A1", "B1", "C1"):
        assert laws[f"{name}-variance"].theory + laws[f"{name}-drift"].theory == pytest.approx(1)


def test_sampling_bias_shrinks_the_variance_and_an_average_slows_the_loss():
    biased = gaussian_laws.replace_with_sampling_bias()
    assert biased["A4-ml"].theory == pytest.approx(biased["A4-variance"].theory * (1 - 1 / 20) ** 8)
    averaged = gaussian_laws.weights_of_models()
    assert averaged["W1-variance"].theory > (1 - 1 / 20) ** 10


def test_the_spread_of_log_variance_is_taken_around_its_own_expectation():
    laws = gaussian_laws.replace()
    measures = {"log_variance": laws["A2-log"].theory + np.array([-0.5, 0.5])}
    assert laws["A2-log-spread"].statistic(measures) == pytest.approx([0.25, 0.25])


def test_real_points_with_a_small_weight_let_the_chain_drift_farther():
    laws = gaussian_laws.weighted_real()
    assert laws["D1-drift"].theory < laws["D1-little-drift"].theory
    assert laws["D1-drift"].chain["policies"] == [{"policy": "real_weight", "weight": "golden"}]
