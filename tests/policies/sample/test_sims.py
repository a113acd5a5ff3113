from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from chains import COPIES, checked, config, content
from steered import QUIET, at, exact, floats, small

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.loop.chain import run_chain
from difflab.models.steer import Step
from difflab.policies import parse

run_chain = partial(run_chain, plots=False)  # curves take seconds

pytestmark = QUIET
LABELS, SEEDS = np.array([0, 1, 2, 1]), [5, 6, 7, 8]


def sims(**fields):
    return parse({"policy": "sims", **fields})


@pytest.mark.parametrize("w", [0.5, 1.0])
@pytest.mark.parametrize("own", [0.11, 0.22])
def test_the_sampled_variance_is_the_law_and_not_that_of_the_combined_density(w, own):
    n, reference = 100, 0.15
    model = exact([0.0, 0.0], [own, 0.3])
    model.steers = [sims(strength=w).steer(at(previous=exact([0.0, 0.0], [reference, 0.3])), model)]
    x = floats(
        model, np.zeros(n, dtype=np.int64), list(range(n)), scheduler="DPMSolverMultistepScheduler", steps=250
    )
    error = 1 / math.sqrt(2 * x.numel())
    assert abs(float(x.std()) / (reference * (reference / own) ** w) - 1) < 4 * error
    precision = (1 + w) / reference**2 - w / own**2
    assert abs(float(x.std()) * math.sqrt(precision) - 1) > 6 * error


def test_at_no_noise_the_score_has_the_precision_of_the_combined_density():
    """What does hold of (1 + w)/v_r - w/v_s: the score just above noise 0."""
    w, reference, own = 1.0, 0.15, 0.13
    model = exact([0.0, 0.0], [own, 0.3])
    steer = sims(strength=w).steer(at(previous=exact([0.0, 0.0], [reference, 0.3])), model)
    x, t = torch.full((1, 1, 8, 8), 0.1), torch.zeros(1, dtype=torch.long)
    ab = float(model.noise.alphas_cumprod[0])
    step = Step(x, t, 0.0, torch.tensor([0]), 1.0, [0])
    v = steer.prediction(model.guided(step), step)
    noise = math.sqrt(ab) * v + math.sqrt(1 - ab) * x
    score = float(-(noise / math.sqrt(1 - ab)).mean())
    assert score == pytest.approx(-0.1 * ((1 + w) / reference**2 - w / own**2), rel=0.02)


def test_strength_0_samples_the_reference():
    model, reference = small(0), small(1)
    model.steers = [sims(strength=0.0, reference="base").steer(at(base=reference), model)]
    how = Sample(steps=5, guidance_scale=2.0)
    assert (model.sample(LABELS, SEEDS, how) == small(1).sample(LABELS, SEEDS, how)).all()
    model.steers = [sims(strength=1.0).steer(at(previous=small(0)), model)]
    assert (
        model.sample(LABELS, SEEDS, how) == small(0).sample(LABELS, SEEDS, how)
    ).mean() > 0.98  # itself: nothing to be led away from


def test_the_reference_is_guided_and_told_as_the_model_is():
    """With cads, a schedule of guidance and the base's unconditional prediction before it."""
    model, reference, base = small(0), small(1), small(2)
    others = [
        parse("cads").steer(None, model),
        parse({"policy": "guidance_schedule", "start": 3.0}).steer(None, model),
        parse("base_guidance").steer(at(base=base), model),
    ]
    model.steers = [*others, sims(strength=1.0).steer(at(previous=reference), model)]
    x, t = torch.randn(4, 1, 4, 4), torch.full((4,), 800)
    step = Step(x, t, 0.8, torch.from_numpy(LABELS), 2.5, SEEDS)
    with torch.no_grad():
        prediction = model.guided(step)
        got = model.steers[-1].prediction(prediction, step)
        lone = small(1)
        lone.steers = others
        torch.testing.assert_close(got, 2 * lone.guided(step) - prediction)
        assert not torch.allclose(lone.guided(step), small(1).guided(step), atol=1e-3)
    together = model.sample(LABELS, SEEDS, Sample(steps=5))
    alone = np.concatenate(
        [model.sample(LABELS[i : i + 1], SEEDS[i : i + 1], Sample(steps=5)) for i in range(4)]
    )
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_a_chain_with_all_that_steers_says_so_and_resumes_to_the_same_bits(tmp_path):
    steering = [
        {"policy": "sims", "strength": 0.5},
        {"policy": "cads", "first": 1},
        {"policy": "temperature", "scale": 0.9},
        {"policy": "stochasticity", "eta": 0.5},
        {"policy": "guidance_by_generation", "scales": [1.0, 3.0]},
        "guidance_schedule",
        "base_guidance",
    ]
    run = run_chain(config(*steering, generations=2), tmp_path / "run")
    said = [json.loads(run.samples(t).column("settings")[0])["policies"] for t in (0, 1)]
    always = ["guidance_by_generation", "temperature", "stochasticity", "guidance_schedule", "base_guidance"]
    assert said[0] == always and sorted(said[1]) == sorted([*always, "sims", "cads"])
    whole = content(run.path)
    for t in (0, 2):
        for file in (run.path / f"gen-00{t}" / "samples").glob("*"):
            file.unlink()
        (run.path / f"gen-00{t}" / "sampled.json").unlink()
    assert content(run_chain(run.config, run.path).path) == whole


def test_what_does_not_fit_is_refused():
    checked("sims", model={"conditional": False})
    with pytest.raises(ConfigError, match=r"'first'.*greater than or equal to 1"):
        checked({"policy": "sims", "first": 0})
    with pytest.raises(ConfigError, match="the family memoriser does not sample by denoising"):
        checked("sims", base=COPIES)
