from __future__ import annotations

import sys

import diffusers
import numpy as np
import pytest
import torch
from chains import COPIES, checked
from steered import QUIET, exact, floats

from difflab.core.errors import ConfigError
from difflab.policies.sample.temperature import Scaled, Temperature

pytestmark = QUIET
LABELS, SEEDS = np.zeros(6, dtype=np.int64), list(range(6))


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DDIMScheduler", {}),
        ("DDPMScheduler", {}),
        ("EulerDiscreteScheduler", {}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("UniPCMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ],
)
def test_deviations_are_multiplied_for_a_linear_model_whatever_the_scheduler(name, options, scale):
    model, how = exact([0.1, 0.0], [0.12, 0.2]), {"scheduler": name, "scheduler_options": options, "steps": 9}
    plain = floats(model, LABELS, SEEDS, **how)
    model.steers = [Scaled(0.0)]
    centre = floats(model, LABELS, SEEDS, **how)
    model.steers = [Temperature(policy="temperature", scale=scale).steer(None, model)]
    torch.testing.assert_close(
        floats(model, LABELS, SEEDS, **how) - centre, scale * (plain - centre), rtol=1e-3, atol=1e-4
    )
    assert (plain - centre).std() > 0.05


@pytest.mark.parametrize(("name", "steps"), [("DDIMScheduler", 500), ("DDPMScheduler", 500)])
def test_the_spread_of_samples_is_that_of_the_truth_times_the_factor(name, steps):
    model, n = exact([0.1, 0.0], [0.12, 0.2]), 60
    model.steers = [Scaled(0.6)]
    x = floats(model, np.zeros(n, dtype=np.int64), list(range(n)), scheduler=name, steps=steps)
    assert abs(float(x.std()) / (0.6 * 0.12) - 1) * np.sqrt(2 * x.numel()) < 4
    assert abs(float(x.mean()) - 0.1) / (0.6 * 0.12) * np.sqrt(x.numel()) < 4


def test_one_is_off_and_the_library_is_left_as_it_was():
    model, how = exact([0.1, 0.0], [0.12, 0.2]), {"scheduler": "DDPMScheduler", "steps": 5}
    drawn = sys.modules[diffusers.DDPMScheduler.__module__].randn_tensor
    plain = floats(model, LABELS, SEEDS, **how)
    model.steers = [Scaled(1.0)]
    assert torch.equal(floats(model, LABELS, SEEDS, **how), plain)
    model.net.forward = lambda x, t, labels: 1 / 0
    with pytest.raises(ZeroDivisionError):
        floats(model, LABELS, SEEDS, **how)
    assert sys.modules[diffusers.DDPMScheduler.__module__].randn_tensor is drawn


def test_it_wants_a_family_that_denoises_and_a_positive_factor():
    with pytest.raises(
        ConfigError,
        match="temperature changes denoising, but the family memoriser does not sample by denoising",
    ):
        checked({"policy": "temperature", "scale": 0.9}, base=COPIES)
    with pytest.raises(ConfigError, match=r"'scale'.*greater than 0"):
        checked({"policy": "temperature", "scale": 0.0})
