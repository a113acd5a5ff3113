from __future__ import annotations

import pytest
from chains import NUMBERS, checked, config, ran

from difflab.core.errors import ConfigError
from difflab.core.shape import Shape
from difflab.loop import train
from difflab.loop.plan import plan

SHORT = {"policy": "retraining", "images_seen": 64, "learning_rate": 1e-4, "last": 1}


def test_it_is_the_length_and_rate_of_its_generations(tmp_path, monkeypatch):
    used, fit = [], train.fit

    def watched(model, data, how, *rest, **more):
        used.append((how.images_seen, how.learning_rate, how.condition_dropout))
        return fit(model, data, how, *rest, **more)

    monkeypatch.setattr(train, "fit", watched)
    run = ran(config(SHORT, train={"images_seen": 128}), tmp_path / "run")
    assert used == [(128, 3e-3, 0.1), (64, 1e-4, 0.1), (128, 3e-3, 0.1)]
    assert [run.training(t)["images_seen"] for t in range(3)] == [128, 64, 128]


def test_the_plan_knows_of_it():
    costs = plan(config(SHORT, train={"images_seen": 128}), Shape((8, 8, 1), 10), 500)
    assert [cost.images for cost in costs if cost.stage == "train"] == [128, 64, 128]


@pytest.mark.parametrize(
    ("entry", "sections", "message"),
    [
        ({}, {}, "changes nothing; set images_seen or learning_rate"),
        ({"images_seen": 0}, {}, r"'images_seen'.*greater than or equal to 1"),
        ({"learning_rate": 0}, {}, r"'learning_rate'.*greater than 0"),
        ({"images_seen": 9}, {"base": NUMBERS}, "model.family=gaussian is fitted by a formula"),
    ],
)
def test_bad_input(entry, sections, message):
    with pytest.raises(ConfigError, match=message):
        checked({"policy": "retraining", **entry}, **sections)


def test_it_does_not_end_before_early_stop_has_looked():
    with pytest.raises(ConfigError, match="evaluates every 100 images, but a retraining sees only 64"):
        checked({"policy": "early_stop", "every": 100}, SHORT)
