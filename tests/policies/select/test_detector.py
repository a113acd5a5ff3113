from __future__ import annotations

import numpy as np
import pytest
from made import UNCONDITIONAL, candidates, checked, config, kept

from difflab.core.errors import ConfigError
from difflab.loop.regimes import check_possible, expected, pools
from difflab.policies import acting


def test_samples_are_dropped_at_the_true_positive_rate():
    at, all_ = candidates(n=4000)
    left = kept({"policy": "detector", "true_positive_rate": 0.8}, at, all_)
    assert abs(len(left) - 800) < 4 * np.sqrt(4000 * 0.8 * 0.2)
    assert kept({"policy": "detector", "true_positive_rate": 0.0}, at, all_) == list(range(4000))
    assert kept({"policy": "detector", "true_positive_rate": 1.0}, at, all_) == []


def test_a_verdict_does_not_depend_on_the_other_candidates():
    at, all_ = candidates(n=100)
    left = kept({"policy": "detector", "true_positive_rate": 0.5}, at, all_)
    odd = np.arange(1, 100, 2)
    assert odd[kept({"policy": "detector", "true_positive_rate": 0.5}, at, all_.only(odd))].tolist() == [
        i for i in left if i % 2
    ]


def drawn(regime, rate, t, n_train=1000, count=200):
    made = config(
        {"policy": "detector", "true_positive_rate": 0.0, "false_positive_rate": rate},
        base=UNCONDITIONAL,
        sample={"count": count},
        **regime,
    )
    return pools(made, t, n_train, [np.arange(count)] * t, acting("pools", made, t, n_train=n_train))


def test_real_images_are_lost_at_the_false_positive_rate_always_the_same_ones():
    accumulate = {"regime": {"name": "accumulate"}}
    (whole,), _ = drawn(accumulate, 0.3, 0)
    assert whole.count == 1000  # nobody looks before there are synthetic images
    (real, *_), _ = drawn(accumulate, 0.3, 1)
    assert abs(real.count - 700) < 4 * np.sqrt(1000 * 0.3 * 0.7) and real.count == len(real.rows)
    (again, *synthetic), _ = drawn(accumulate, 0.3, 2)
    assert np.array_equal(real.rows, again.rows) and [p.count for p in synthetic] == [200, 200]
    (all_of_them, *_), _ = drawn(accumulate, 0.0, 1)
    assert all_of_them.count == 1000


def test_a_part_of_the_real_images_is_drawn_from_those_that_pass():
    (real, synthetic), _ = drawn(
        {"regime": {"name": "fixed_real", "real_fraction": 0.5, "set_size": 400}}, 0.3, 1
    )
    assert real.count == 200 and len(real.rows) < 800 and synthetic.count == 200
    (fresh, synthetic), _ = drawn(
        {
            "regime": {"name": "fresh_real", "real_fraction": 0.5, "set_size": 400},
            "data": {"train_size": 300, "source": "digits"},
        },
        0.3,
        1,
    )
    assert (
        abs(fresh.count - 140) < 4 * np.sqrt(200 * 0.3 * 0.7)
        and fresh.rows.min() >= 300
        and synthetic.count == 200
    )
    with pytest.raises(ConfigError, match="asks for 900 real images"):
        drawn({"regime": {"name": "fixed_real", "real_fraction": 0.9, "set_size": 1000}}, 0.3, 1, count=200)


def test_rates_are_probabilities():
    for rate in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="'true_positive_rate'"):
            config({"policy": "detector", "true_positive_rate": rate})
        with pytest.raises(ConfigError, match="'false_positive_rate'"):
            config({"policy": "detector", "true_positive_rate": 0.5, "false_positive_rate": rate})
    with pytest.raises(ConfigError, match="'true_positive_rate' is missing"):
        config("detector")
    checked({"policy": "detector", "true_positive_rate": 0.5}, measure={"metrics": []})


def test_a_perfect_detector_leaves_nothing_to_train_on():
    perfect = config(
        {"policy": "detector", "true_positive_rate": 1.0}, base=UNCONDITIONAL, sample={"count": 50}
    )
    assert expected(perfect, 0) == 0
    with pytest.raises(ConfigError, match="training set 1 would be empty"):
        check_possible(perfect, 100)
