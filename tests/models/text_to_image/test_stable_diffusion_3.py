"""Stable Diffusion 3: the shift of the noise levels that depends on the image's size (Stable Diffusion 3.5)."""

from __future__ import annotations

import pytest
import tiny
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

from difflab.config import Sample
from difflab.core.shape import Shape

pytestmark = tiny.LIBRARIES
HOW = Sample(scheduler="FlowMatchEulerDiscreteScheduler", steps=5)


@pytest.mark.parametrize("side", [16, 32])
def test_a_dynamic_shift_is_that_of_the_pipeline(side, tmp_path):
    folder = tiny.make("sd3", tmp_path / "sd3")
    scheduler = {"use_dynamic_shifting": True, "base_shift": 0.4, "max_shift": 1.3}
    tiny.amend(folder / "scheduler" / "scheduler_config.json", **scheduler)
    model = tiny.model("sd3", folder, Shape((side, side, 3), 0, tiny.CAPTIONS))
    pipe = tiny.pipeline("sd3", folder)
    tokens = (side // 4) ** 2  # latents have half the side, patches two latent pixels
    pipe.scheduler.set_timesteps(5, mu=calculate_shift(tokens, 256, 4096, 0.4, 1.3))
    torch.testing.assert_close(model.scheduler(HOW).sigmas, pipe.scheduler.sigmas)


def test_without_it_the_shift_is_fixed(tmp_path):
    model = tiny.model("sd3", tiny.make("sd3", tmp_path / "sd3"))
    assert model.architecture.schedule({"shift": 3.0}, 5, model.drawn) == {}
