from __future__ import annotations

import numpy as np
import pytest
from made import UNCONDITIONAL, candidates, checked, config, kept

from difflab.core.errors import ConfigError
from difflab.loop.regimes import check_possible, expected


def test_it_keeps_the_number_or_share_asked_for():
    at, all_ = candidates(n=30)
    assert len(kept({"policy": "random", "count": 7}, at, all_)) == 7
    assert len(kept({"policy": "random", "share": 0.1}, at, all_)) == 3
    assert len(kept({"policy": "random", "share": 0.11}, at, all_)) == 4  # rounded up
    assert kept({"policy": "random", "share": 1.0}, at, all_) == list(range(30))


def test_every_sample_is_kept_as_often_and_draws_depend_on_seed_and_generation_alone():
    drawn = [kept({"policy": "random", "count": 5}, *candidates(n=20, generation=t)) for t in range(120)]
    assert np.abs(np.bincount(np.concatenate(drawn), minlength=20) - 30).max() < 4 * np.sqrt(
        120 * 0.25 * 0.75
    )
    assert drawn[3] == kept({"policy": "random", "count": 5}, *candidates(n=20, generation=3))
    assert drawn[3] != kept({"policy": "random", "count": 5}, *candidates(n=20, generation=3, seed=1))
    assert len({tuple(d) for d in drawn[:50]}) == 50


def test_a_share_of_each_class():
    at, all_ = candidates(labels=[0] * 10 + [1] * 5 + [2] * 1)
    labels = all_.labels[kept({"policy": "random", "share": 0.4, "within": "class"}, at, all_)]
    assert np.bincount(labels).tolist() == [4, 2, 1]


def test_what_it_keeps_is_known_before():
    sample = {"count": 50}
    assert expected(config({"policy": "random", "share": 0.3}, base=UNCONDITIONAL, sample=sample), 0) == 15
    assert (
        expected(
            config(
                {"policy": "random", "count": 20},
                {"policy": "random", "share": 0.5},
                base=UNCONDITIONAL,
                sample=sample,
            ),
            0,
        )
        == 10
    )
    with pytest.raises(ConfigError, match="random keeps 60 samples, but there are 50"):
        check_possible(config({"policy": "random", "count": 60}, base=UNCONDITIONAL, sample=sample), 100)
    short = config(
        {"policy": "random", "count": 20}, base=UNCONDITIONAL, sample=sample, regime={"name": "fixed_real"}
    )
    with pytest.raises(ConfigError, match=r"asks for 50 samples of generation 0 .* but there are only 20"):
        check_possible(short, 100)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "exactly one of share, count; got none"),
        ({"share": 0.5, "count": 3}, "exactly one of share, count; got share and count"),
        ({"share": 0.0}, "'share'.*greater than 0"),
        ({"share": 1.5}, "'share'.*less than or equal to 1"),
        ({"count": 0}, "'count'.*greater than or equal to 1"),
        ({"count": 3, "within": "class"}, "count applies to the whole generation"),
    ],
)
def test_a_wrong_size_is_named(entry, message):
    with pytest.raises(ConfigError, match=message):
        config({"policy": "random", **entry})


def test_groups_want_a_model_that_is_asked_by_them():
    checked({"policy": "random", "share": 0.5, "within": "class"})
    with pytest.raises(ConfigError, match="have no requested class; use within: all"):
        checked({"policy": "random", "share": 0.5, "within": "class"}, base=UNCONDITIONAL)
    with pytest.raises(ConfigError, match="have no requested prompt"):
        checked({"policy": "random", "share": 0.5, "within": "prompt"})
    at, unlabelled = candidates(n=5)
    with pytest.raises(ConfigError, match="grouped by class, but 5 of them have no class"):
        kept({"policy": "random", "share": 0.5, "within": "class"}, at, unlabelled)
