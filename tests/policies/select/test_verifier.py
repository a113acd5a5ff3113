from __future__ import annotations

import numpy as np
import pytest
from made import UNCONDITIONAL, candidates, checked, config, kept

from difflab.core.errors import ConfigError, MeasureError
from difflab.loop.regimes import expected
from difflab.policies import parse

RNG = np.random.default_rng(0)
CENTRES = np.array([[0.0, 4.0], [4.0, 0.0], [-4.0, -4.0]])


def around(labels, spread=1.0):
    return CENTRES[labels] + spread * RNG.normal(size=(len(labels), 2))


REAL_LABELS = np.arange(90) % 3
REAL = around(REAL_LABELS)
SEEN = np.arange(30) % 3  # what the samples show
ASKED = np.where(np.arange(30) < 24, SEEN, (SEEN + 1) % 3)  # the last six show something else
FAKE = around(SEEN, 0.5)


def some(**more):
    return candidates(FAKE, REAL, ASKED, REAL_LABELS, **more)


def test_samples_that_show_something_else_are_dropped():
    at, all_ = some()
    assert kept({"policy": "verifier", "threshold": 0.5}, at, all_) == list(range(24))
    assert kept({"policy": "verifier", "share": 0.8}, at, all_) == list(range(24))
    assert kept({"policy": "verifier", "count": 24}, at, all_) == list(range(24))
    assert kept({"policy": "verifier", "threshold": 0.0}, at, all_) == list(range(30))
    by_class = kept({"policy": "verifier", "share": 0.5, "within": "class"}, at, all_)
    assert np.bincount(ASKED[by_class]).tolist() == [5, 5, 5] and max(by_class) < 24


def test_it_is_as_sure_as_the_judge_of_the_run_where_it_learned_from_the_same():
    at, all_ = some()
    judge = all_.judge(at.extractor())
    wanted = judge.probabilities(all_.features(at.extractor())).numpy()[np.arange(30), ASKED]
    assert np.allclose(parse({"policy": "verifier", "threshold": 0.5}).confidence(at, all_), wanted)


def test_what_it_never_learned_it_drops_first():
    at, all_ = some()
    biased = {"policy": "verifier", "classes": ["ant", "bee"]}
    good, sure = [i for i in range(24) if ASKED[i] < 2], kept({**biased, "threshold": 0.5}, at, all_)
    assert (
        set(good) <= set(sure) and 2 not in ASKED[sure]
    )  # of what shows a cat and was asked for as another it may be sure: it knows no cats
    assert 2 not in ASKED[kept({**biased, "count": len(good)}, at, all_)]


def test_fewer_real_images_make_another_verifier_the_same_in_all_generations():
    few = parse({"policy": "verifier", "threshold": 0.5, "real_share": 0.1})
    at, all_ = some()
    poor, whole = (
        few.confidence(at, all_),
        parse({"policy": "verifier", "threshold": 0.5}).confidence(at, some()[1]),
    )
    assert few.fit(at, all_, at.extractor()).recipe["n_train"] == 9
    assert np.abs(poor - whole).max() > 0.01
    assert np.array_equal(few.confidence(*some(generation=3)), poor)
    assert not np.array_equal(few.confidence(*some(seed=1)), poor)


def test_how_much_it_keeps_is_known_unless_by_threshold():
    assert expected(config({"policy": "verifier", "share": 0.25}, sample={"count": 100}), 0) == 25
    assert expected(config({"policy": "verifier", "threshold": 0.9}, sample={"count": 100}), 0) == 100


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="exactly one of share, count, threshold; got share and threshold"):
        config({"policy": "verifier", "share": 0.5, "threshold": 0.5})
    with pytest.raises(ConfigError, match=r"'threshold'.*less than or equal to 1"):
        config({"policy": "verifier", "threshold": 1.5})
    with pytest.raises(ConfigError, match="samples of this model have no requested class"):
        checked({"policy": "verifier", "share": 0.5}, base=UNCONDITIONAL)
    at, all_ = some()
    with pytest.raises(ConfigError, match="'dog' is not one of the classes ant, bee, cat"):
        kept({"policy": "verifier", "share": 0.5, "classes": ["ant", "dog"]}, at, all_)
    with pytest.raises(MeasureError, match="at least 2 classes"):
        kept({"policy": "verifier", "share": 0.5, "real_share": 0.001}, at, some()[1])
    at, unasked = candidates(FAKE, REAL, None, REAL_LABELS)
    with pytest.raises(ConfigError, match="but these samples have none"):
        kept({"policy": "verifier", "share": 0.5}, at, unasked)
