from __future__ import annotations

import numpy as np
import pytest
from made import NUMBERS, candidates, checked, config, kept, reasons

from difflab.core.errors import ConfigError

RNG = np.random.default_rng(0)


def test_of_samples_like_real_images_it_takes_no_more_than_its_rate():
    found = 0
    for t in range(10):
        at, all_ = candidates(RNG.normal(size=(400, 3)), RNG.normal(size=(400, 3)), generation=t)
        found += 400 - len(kept({"policy": "probe_detector", "false_positive_rate": 0.1}, at, all_))
    assert 0.06 < found / 4000 < 0.14  # thresholds are noisy: 20 of them from 200 real images each, sd .005


def test_what_can_be_told_apart_is_found_and_the_reason_says_how_much():
    at, all_ = candidates(
        np.concatenate([RNG.normal(size=(50, 3)) + 9, RNG.normal(size=(50, 3))]), RNG.normal(size=(200, 3))
    )
    why = reasons({"policy": "probe_detector", "false_positive_rate": 0.05}, at, all_)
    dropped = [i for i, reason in enumerate(why) if reason]
    assert set(range(50)) <= set(dropped) and len(dropped) < 90
    assert set(why) == {
        None,
        f"the probe classifies it as synthetic; it detects {len(dropped):.1f}% of the samples at a false positive rate of 5.0%",
    }


def test_no_sample_is_judged_by_a_probe_that_learned_from_it():
    # In 300 dimensions any 100 points are told from any 100 others: a probe that had seen the samples would find all of them.
    at, all_ = candidates(RNG.normal(size=(100, 300)), RNG.normal(size=(100, 300)))
    assert len(kept({"policy": "probe_detector", "false_positive_rate": 0.1}, at, all_)) > 70


def test_too_few_real_images_to_calibrate_on_are_named():
    at, all_ = candidates(RNG.normal(size=(40, 2)), RNG.normal(size=(37, 2)))
    assert kept({"policy": "probe_detector", "false_positive_rate": 0.06}, at, all_)
    with pytest.raises(
        ConfigError, match=r"needs 19 real images in each half .*=0.05, .* 37 real images and 40 samples"
    ):
        kept({"policy": "probe_detector", "false_positive_rate": 0.05}, at, all_)
    with pytest.raises(ConfigError, match="and 1 samples"):
        kept({"policy": "probe_detector", "false_positive_rate": 0.06}, at, all_.only(np.array([3])))


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0])
def test_the_rate_is_a_probability(rate):
    with pytest.raises(ConfigError, match="'false_positive_rate'"):
        config({"policy": "probe_detector", "false_positive_rate": rate})


def test_it_wants_features():
    with pytest.raises(ConfigError, match="are numbers"):
        checked("probe_detector", base=NUMBERS)
    with pytest.raises(ConfigError, match="extracts features only if it has measures"):
        checked("probe_detector", measure={"metrics": []})
