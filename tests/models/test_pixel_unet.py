"""The UNet family: its folders are diffusers folders, so plain diffusers must load them and say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from pydantic import ValidationError

from difflab.config import PixelUNet as Spec
from difflab.config import Sample
from difflab.core.errors import ConfigError, StoreError
from difflab.core.shape import Shape
from difflab.models.pixel_unet import PixelUNet

SMALL = Shape((8, 8, 1), 3)


def small(shape: Shape = SMALL, **changes: Any) -> PixelUNet:
    model = PixelUNet(
        Spec(**{"family": "pixel-unet", "channels": [8, 16], "norm_groups": 4, **changes}), shape
    )
    model.initialise(0)
    model.net.eval()
    return model


X, T = torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(0)), torch.tensor([0, 500, 999])


@torch.no_grad()
def test_a_conditional_model_loads_in_plain_diffusers_and_says_the_same(tmp_path):
    model, labels = small(), torch.tensor([0, 2, 3])
    model.save(tmp_path)
    plain = UNet2DModel.from_pretrained(tmp_path / "unet", low_cpu_mem_usage=False)
    assert torch.equal(plain(X, T, class_labels=labels).sample, model.predict(model.net, X, T, labels))
    assert not torch.equal(
        plain(X, T, class_labels=labels).sample, plain(X, T, class_labels=labels * 0 + 1).sample
    )


@torch.no_grad()
def test_an_unconditional_model_is_a_whole_pipeline(tmp_path):
    model = small(conditional=False)
    model.save(tmp_path)
    pipeline = DDPMPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False, local_files_only=True)
    assert torch.equal(pipeline.unet(X, T).sample, model.predict(model.net, X, T, None))
    assert (
        pipeline.scheduler.config.prediction_type == "v_prediction"
        and pipeline.scheduler.config.beta_schedule == "squaredcos_cap_v2"
    )
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(batch_size=1, num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 1)
    torch.testing.assert_close(pipeline.scheduler.alphas_cumprod, model.noise.alphas_cumprod)


@torch.no_grad()
def test_samples_are_those_of_plain_diffusers(tmp_path):
    """The same seeds through diffusers' own classes, step by step."""
    model = small(conditional=False)
    model.save(tmp_path)
    ours = model.sample(None, [4, 5, 6], Sample(scheduler="DDPMScheduler", steps=8))
    net, scheduler = (
        UNet2DModel.from_pretrained(tmp_path / "unet", low_cpu_mem_usage=False),
        DDPMScheduler.from_pretrained(tmp_path / "scheduler"),
    )
    scheduler.register_to_config(timestep_spacing="trailing")
    scheduler.set_timesteps(8)
    generators = [torch.Generator().manual_seed(s) for s in (4, 5, 6)]
    x = torch.stack([torch.randn((1, 8, 8), generator=g) for g in generators])
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t).sample, t, x, generator=generators).prev_sample
    theirs = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_saving_and_loading_keeps_every_bit_and_damage_is_named(tmp_path):
    model = small()
    model.save(tmp_path)
    read, state = PixelUNet.load(model.spec, model.shape, tmp_path), model.net.state_dict()
    assert all(torch.equal(p, state[name]) for name, p in read.net.state_dict().items())
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(StoreError, match="holds no readable model"):
        PixelUNet.load(model.spec, model.shape, tmp_path)


def test_shapes_and_options_follow_the_config():
    net = small(
        Shape((12, 12, 3), 4), channels=[8, 16, 8], attention=[False, True, False], layers_per_block=2
    ).net
    assert (
        net.config.block_out_channels == (8, 16, 8)
        and net.config.layers_per_block == 2
        and net.config.num_class_embeds == 5
    )
    assert net.config.down_block_types == ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D")
    assert net.config.up_block_types == ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    assert small().net.config.down_block_types == ("DownBlock2D", "AttnDownBlock2D")


@pytest.mark.parametrize("side", [9, 10, 14])
def test_images_that_cannot_be_halved_are_refused(side):
    with pytest.raises(
        ConfigError,
        match=rf"data\.image_size={side} is not a multiple of 4, but model.channels has 3 resolutions",
    ):
        small(Shape((side, side, 1), 3), channels=[8, 8, 8])


def test_a_conditional_model_of_an_unlabelled_set_is_refused():
    with pytest.raises(ConfigError, match=r"conditional=true needs a labelled set.*pixel-unet"):
        small(Shape((8, 8, 1), 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"norm_groups": 3}, "norm_groups 3"), ({"attention": [True]}, "attention has 1 entries")],
)
def test_impossible_shapes_are_refused_when_the_config_is_read(changes, message):
    with pytest.raises(ValidationError, match=message):
        small(**changes)
