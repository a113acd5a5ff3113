from __future__ import annotations

import json
from functools import partial

import pytest
from chains import COPIES, checked, config, content

from difflab.core.errors import ConfigError
from difflab.loop.chain import run_chain
from difflab.policies import parse

run_chain = partial(run_chain, plots=False)  # curves take seconds


def policy(**fields):
    return parse({"policy": "guidance_by_generation", **fields})


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"scales": [3.0, 2.0]}, [3, 2, 2, 2]),
        ({"factor": 0.5}, [5, 3, 2, 1.5]),  # 5 is given
        ({"start": 3.0, "factor": 0.5}, [3, 2, 1.5, 1.25]),
        ({"start": 1.5, "factor": 2.0}, [1.5, 2, 3, 5]),
        ({"start": 0.5, "factor": 3.0}, [0.5, 0, 0, 0]),  # never below 0
        ({"factor": 0.0}, [5, 1, 1, 1]),
    ],
)
def test_the_scale_of_each_generation(fields, wanted):
    assert [policy(**fields).scale(t, 5.0) for t in range(4)] == pytest.approx(wanted)


def settings(run, generation):
    return set(run.samples(generation).column("settings"))


def test_samples_are_those_of_a_config_with_that_scale(tmp_path):
    """Generation 0 against a plain run; what every sample says of its making; a run that lost samples draws the same."""
    varied = run_chain(
        config({"policy": "guidance_by_generation", "scales": [3.0, 1.5]}, generations=1), tmp_path / "varied"
    )
    plain = run_chain(config(generations=0, sample={"guidance_scale": 3.0}), tmp_path / "plain")
    assert varied.samples(0).hash() == plain.samples(0).hash()
    for generation, scale in ((0, 3.0), (1, 1.5)):
        (own,) = settings(varied, generation)
        assert json.loads(own)["guidance_scale"] == scale and json.loads(own)["policies"] == [
            "guidance_by_generation"
        ]
    whole = content(varied.path)
    for file in (varied.path / "gen-001" / "samples").glob("*"):
        file.unlink()
    (varied.path / "gen-001" / "sampled.json").unlink()
    assert content(run_chain(varied.config, varied.path).path) == whole


@pytest.mark.parametrize(
    ("fields", "sections", "message"),
    [
        ({}, {}, "set either scales \\(a list\\) or factor"),
        ({"scales": [2.0], "factor": 1.0}, {}, "set either"),
        ({"scales": [2.0], "start": 1.0}, {}, "start can be set only with factor"),
        ({"scales": [2.0, -1.0]}, {}, "must not be negative"),
        ({"scales": [2.0]}, {"model": {"conditional": False}}, "needs a conditional model"),
        ({"scales": [2.0]}, {"train": {"condition_dropout": 0.0}}, "condition_dropout above 0"),
        ({"scales": [2.0]}, {"base": COPIES}, "the family memoriser does not sample by denoising"),
    ],
)
def test_what_does_not_fit_is_refused(fields, sections, message):
    with pytest.raises(ConfigError, match=message):
        checked({"policy": "guidance_by_generation", **fields}, **sections)
