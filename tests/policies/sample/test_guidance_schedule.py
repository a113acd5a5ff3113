from __future__ import annotations

import numpy as np
import pytest
from chains import COPIES, checked
from steered import QUIET, exact, small

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.policies import parse

pytestmark = QUIET
LABELS, SEEDS = np.array([0, 1, 2, 1]), [5, 6, 7, 8]


def schedule(**fields):
    return parse({"policy": "guidance_schedule", **fields})


@pytest.mark.parametrize(
    ("fields", "share", "g"),
    [
        ({"start": 8.0, "end": 2.0}, 1.0, 8.0),
        ({"start": 8.0, "end": 2.0}, 0.5, 4.0),
        ({"start": 8.0, "end": 2.0}, 0.0, 2.0),
        ({"end": 2.0}, 0.5, (5 * 2) ** 0.5),  # 5 is given
        ({"kind": "linear", "start": 4.0}, 0.25, 1.75),
        ({"kind": "linear", "start": 0.0, "end": 3.0}, 1.0, 0.0),
        ({"kind": "interval", "low": 0.2, "high": 0.6}, 0.2, 5.0),
        ({"kind": "interval", "low": 0.2, "high": 0.6}, 0.6, 5.0),
        ({"kind": "interval", "low": 0.2, "high": 0.6}, 0.61, 1.0),
        ({"kind": "interval", "low": 0.2, "high": 0.6, "end": 2.0}, 0.19, 2.0),
    ],
)
def test_the_scale_is_the_function_of_the_noise_that_is_left(fields, share, g):
    assert schedule(**fields).scale(5.0, share) == pytest.approx(g)


def test_a_constant_is_plain_guidance_and_another_is_not():
    model = small()
    plain = model.sample(LABELS, SEEDS, Sample(steps=5, guidance_scale=3.0))
    for kind in ("exponential", "linear", "interval"):
        model.steers = [schedule(kind=kind, start=3.0, end=3.0).steer(None, model)]
        assert (model.sample(LABELS, SEEDS, Sample(steps=5)) == plain).all()
        model.steers = [
            schedule(kind=kind, start=3.0, end=1.0, **({"high": 0.7} if kind == "interval" else {})).steer(
                None, model
            )
        ]
        assert (model.sample(LABELS, SEEDS, Sample(steps=5)) != plain).any()


def test_outside_its_interval_the_label_alone_is_asked():
    model = exact([0.1, 0.0], [0.12, 0.2])
    model.steers = [schedule(kind="interval", low=0.3, high=0.7).steer(None, model)]
    model.sample(np.array([0]), [1], Sample(steps=10, guidance_scale=4.0))
    assert model.net.asked == [[0]] * 3 + [[1, 0]] * 4 + [[0]] * 3  # at shares .999, .899 .. .099


@pytest.mark.parametrize(
    ("fields", "sections", "message"),
    [
        ({}, {}, "goes from 1 to 1; set start, end"),
        ({"low": 0.2}, {}, "have no meaning for exponential"),
        ({"kind": "interval", "low": 0.5, "high": 0.5}, {}, "low 0.5 is not below high 0.5"),
        ({"start": 0.0}, {}, "must not be 0"),
        ({}, {"sample": {"guidance_scale": 0.0}}, "cannot start at"),
        ({"start": 3.0}, {"model": {"conditional": False}}, "guidance_schedule needs a conditional model"),
        (
            {"start": 3.0},
            {"train": {"condition_dropout": 0.0}},
            r"guidance_schedule needs train\.condition_dropout above 0",
        ),
        ({"start": 3.0}, {"base": COPIES}, "the family memoriser does not sample by denoising"),
    ],
)
def test_what_does_not_fit_is_refused(fields, sections, message):
    with pytest.raises(ConfigError, match=message):
        checked({"policy": "guidance_schedule", **fields}, **sections)


def test_what_fits():
    checked({"policy": "guidance_schedule"}, sample={"guidance_scale": 3.0})
    checked({"policy": "guidance_by_generation", "scales": [3.0, 2.0]}, "guidance_schedule")
