from __future__ import annotations

import pytest
from chains import NUMBERS, checked, config, ran, weights

from difflab.core.errors import ConfigError
from difflab.loop import train


def test_it_is_the_condition_dropout_of_its_generations(tmp_path, monkeypatch):
    used, fit = [], train.fit

    def watched(model, data, how, *rest, **more):
        used.append((how.condition_dropout, how.learning_rate))
        return fit(model, data, how, *rest, **more)

    monkeypatch.setattr(train, "fit", watched)
    ran(
        config({"policy": "condition_drop", "share": 0.4, "last": 1}, train={"images_seen": 64}),
        tmp_path / "run",
    )
    assert used == [(0.1, 3e-3), (0.4, 3e-3), (0.1, 3e-3)]


def test_the_training_is_that_of_a_config_with_this_dropout(tmp_path):
    by_policy = ran(
        config({"policy": "condition_drop", "share": 0.5, "first": 0}, generations=0), tmp_path / "a"
    )
    by_config = ran(config(generations=0, train={"condition_dropout": 0.5}), tmp_path / "b")
    without = ran(config(generations=0), tmp_path / "c")
    a, b, c = (weights(run, 0) for run in (by_policy, by_config, without))
    assert all((a[name] == b[name]).all() for name in a) and any((a[name] != c[name]).any() for name in a)


@pytest.mark.parametrize(
    ("entry", "sections", "message"),
    [
        ({"share": 1.0}, {}, r"'share'.*less than 1"),
        ({"share": -0.1}, {}, r"'share'.*greater than or equal to 0"),
        ({"share": 0.0}, {"sample": {"guidance_scale": 2.0}}, "share 0 trains no unconditional prediction"),
        ({}, {"model": {"conditional": False}}, r"this model is unconditional; set model\.conditional=true"),
        ({}, {"base": NUMBERS}, "this model is unconditional"),
        ({"first": 3}, {}, "the chain ends with generation 2"),
    ],
)
def test_bad_input(entry, sections, message):
    with pytest.raises(ConfigError, match=message):
        checked({"policy": "condition_drop", **entry}, **sections)
