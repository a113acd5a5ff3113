from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from chains import COPIES, checked
from steered import QUIET, at, exact, floats

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.core.shape import Shape
from difflab.policies.sample.base_guidance import BaseGuidance

pytestmark = [*QUIET, *tiny.LIBRARIES]
POLICY = BaseGuidance(policy="base_guidance")


def test_spread_is_the_law_with_the_bases_unconditional_variance():
    n, v, own, base, w = 100, 0.1, 0.4, 0.2, 1.0
    model = exact([0.1, 0.1], [v, own])
    how = {"scheduler": "DPMSolverMultistepScheduler", "steps": 250, "guidance_scale": 1 + w}

    def sd() -> float:
        x = floats(model, np.zeros(n, dtype=np.int64), list(range(n)), **how)
        assert x.numel() == 64 * n and abs(float(x.mean()) - 0.1) < 0.01
        return float(x.std())

    assert abs(sd() / (v * (v / own) ** w) - 1) * math.sqrt(2 * 64 * n) < 4
    model.steers = [POLICY.steer(at(base=exact([0.3, 0.1], [0.5, base])), model)]
    assert abs(sd() / (v * (v / base) ** w) - 1) * math.sqrt(2 * 64 * n) < 4


def test_it_is_the_formula_and_the_bases_classes_are_not_asked():
    model, base = exact([0.1, 0.3, 0.0], [0.1, 0.1, 0.2]), exact([0.2, 0.4, -0.1], [0.2, 0.3, 0.3])
    model.steers = [POLICY.steer(at(base=base), model)]
    model.sample(np.array([0, 1]), [1, 2], Sample(steps=3, guidance_scale=3.0))
    assert model.net.asked == [[0, 1]] * 3 and base.net.asked == [[2, 2]] * 3
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([500, 500])
    from difflab.models.steer import Step

    step = Step(x, t, 0.5, torch.tensor([0, 1]), 3.0, [1, 2])
    none = base.net(x, t, torch.tensor([2, 2]))
    torch.testing.assert_close(model.guided(step), none + 3 * (model.net(x, t, torch.tensor([0, 1])) - none))


def test_guidance_by_oneself_is_plain_guidance():
    model = exact([0.1, 0.3, 0.0], [0.1, 0.1, 0.2])
    how = Sample(steps=5, guidance_scale=2.0)
    plain = model.sample(np.array([0, 1]), [1, 2], how)
    model.steers = [POLICY.steer(at(generation=0, base=model), model)]
    assert np.abs(model.sample(np.array([0, 1]), [1, 2], how).astype(int) - plain).max() <= 1


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_text_families_are_led_away_from_the_empty_prompt_of_the_base(kind, tmp_path):
    folder = tiny.make(kind, tmp_path / kind)
    model, base = (tiny.model(kind, folder) for _ in range(2))
    with torch.no_grad():
        for p in model.backbone.parameters():
            p.mul_(1.02)
    how = Sample(**tiny.sampler(kind), guidance_scale=3.0)
    model.prepare_sampling(how, "cpu")
    labels, seeds = np.array([0, 3, 1]), [1, 2, 3]
    plain = model.sample(labels, seeds, how)
    sections = tiny.config(kind, folder).model_dump(mode="json")
    model.steers = [
        POLICY.steer(at(base=base, **{k: sections[k] for k in ("model", "data", "train")}), model)
    ]
    led = model.sample(labels, seeds, how)
    alone = np.concatenate([model.sample(labels[i : i + 1], seeds[i : i + 1], how) for i in range(3)])
    assert (led != plain).any() and np.abs(led.astype(int) - alone).max() <= 1
    assert base.vae is None and base.shape == Shape((tiny.SIDE, tiny.SIDE, 3), 0, tiny.CAPTIONS)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({}, "base_guidance changes nothing at sample.guidance_scale=1"),
        ({"model": {"conditional": False}}, "needs a conditional model"),
        ({"train": {"condition_dropout": 0.0}}, "condition_dropout above 0"),
        ({"base": COPIES}, "the family memoriser does not sample by denoising"),
    ],
)
def test_what_does_not_fit_is_refused(sections, message):
    with pytest.raises(ConfigError, match=message):
        checked("base_guidance", **sections)
    checked("base_guidance", sample={"guidance_scale": 2.0})
    checked("base_guidance", {"policy": "guidance_schedule", "start": 2.0})
