"""Laws of categories, labs, guidance and selection agree where one is a special case of another."""

from __future__ import annotations

import numpy as np
import pytest

from difflab.studies import category_laws
from difflab.studies.category_laws import diversity, zipf


def test_zipf_shares_and_their_diversity():
    assert zipf(2) == pytest.approx([2 / 3, 1 / 3]) and zipf(10).sum() == pytest.approx(1)
    assert diversity(np.full(4, 0.25)) == pytest.approx(0.75) and diversity(np.ones(1)) == 0


def test_isolated_labs_lose_as_single_chains_do_and_pooled_ones_less():
    labs = category_laws.pooled_and_isolated_labs()
    assert labs["K2-diversity"].theory == pytest.approx(diversity(zipf(10)) * (1 - 1 / 30) ** 10)
    assert labs["K1-diversity"].theory > labs["K2-diversity"].theory
    assert labs["K1-distance"].theory < labs["K2-distance"].theory / 5


def test_labs_that_only_exchange_samples_lose_as_isolated_ones_do():
    isolated, swapped = category_laws.pooled_and_isolated_labs(), category_laws.one_way_and_swapped_labs()
    for statistic in ("diversity", "distance"):
        law = swapped[f"K4-{statistic}"]
        assert law.theory == pytest.approx(isolated[f"K2-{statistic}"].theory), statistic


def test_modes_keep_variance_plus_drift():
    laws = category_laws.modes()
    measures = {"variance": np.array([80.0, 60.0]), "squared_drift": np.array([5.0, 25.0])}
    assert laws["M-conserved"].statistic(measures).tolist() == [85.0, 85.0]
    assert laws["M-conserved"].theory == pytest.approx(85)


def test_selected_samples_are_as_many_as_are_trained_on():
    for name, law in category_laws.selection().items():
        config = law.chain
        n, real = config["data"]["train_size"], config["regime"].get("real_fraction", 0)
        k = config["policies"][0]["k"]
        assert config["sample"]["count"][0] == k * (n - round(real * n)), name
        assert config["sample"]["count"][-1] == k and law.spread > 0, name
