"""Qwen-Image: latents of one frame, guidance with the norm of each patch, the shift, and the loss of diffusers' training script."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import QwenImagePipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from parts import CAPTIONS
from script_loss import losses
from tiny_bases import qwen_image

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.core.shape import Shape
from difflab.models import family_of

pytestmark = tiny.LIBRARIES
(BASE,) = qwen_image.BASES


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return BASE.write(tmp_path_factory.mktemp("base") / "qwen-image")


def packed(x: torch.Tensor) -> torch.Tensor:
    return QwenImagePipeline._pack_latents(x, *x.shape)


def unpacked(tokens: torch.Tensor, side: int = 16) -> torch.Tensor:
    return QwenImagePipeline._unpack_latents(tokens, side, side, 2)[:, :, 0]


def test_the_loss_is_that_of_the_training_script(folder):
    """examples/dreambooth/train_dreambooth_lora_qwen_image.py (which draws from the posterior; here its mode is compared)."""
    model, pipe = BASE.model(folder), BASE.pipeline(folder)
    assert model.architecture.posterior == "sample"
    states, mask = pipe.encode_prompt(list(CAPTIONS))
    mean, std = (
        torch.tensor(pipe.vae.config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std")
    )

    def clean(pixels: torch.Tensor) -> torch.Tensor:
        return ((pipe.vae.encode(pixels[:, :, None]).latent_dist.mode() - mean) / std)[:, :, 0]

    def velocity(noisy: torch.Tensor, sigmas: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        guess = pipe.transformer(
            hidden_states=packed(noisy),
            timestep=times / 1000,
            encoder_hidden_states=states,
            encoder_hidden_states_mask=mask,
            img_shapes=[(1, 4, 4)] * 4,
            return_dict=False,
        )[0]
        return unpacked(guess)

    ours, theirs = losses(model, pipe, clean, velocity)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_guidance_keeps_the_norm_of_each_patch(folder):
    """The formula of the pipeline, on its tokens."""
    negative, positive = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    n, p = packed(negative), packed(positive)
    guided = n + 4.0 * (p - n)
    guided = guided * (torch.norm(p, dim=-1, keepdim=True) / torch.norm(guided, dim=-1, keepdim=True))
    got = BASE.model(folder).combine(negative, positive, 4.0)
    torch.testing.assert_close(got, unpacked(guided))
    assert (got - (negative + 4 * (positive - negative))).abs().max() > 1


def test_padding_of_prompts_has_no_influence(folder):
    """The pipeline drops the mask if all prompts are equally long; difflab keeps one of ones."""
    model, pipe = BASE.model(folder), BASE.pipeline(folder)
    one, all_ = (model.architecture.texts(pipe, list(part), "cpu") for part in (CAPTIONS[:1], CAPTIONS))
    assert one["mask"].all() and not all_["mask"].all() and one["mask"].dtype == torch.bool
    x, t = torch.randn(1, *model.drawn, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])
    with torch.no_grad():
        alone = model.architecture.predict(model.backbone, x, t, one, 1.0)
        first = {name: table[:1] for name, table in all_.items()}
        torch.testing.assert_close(model.architecture.predict(model.backbone, x, t, first, 1.0), alone)


def test_the_shift_and_its_end_are_those_of_the_pipeline(folder, tmp_path):
    """The published scheduler stretches the noise levels to end at shift_terminal."""
    changed = shutil.copytree(folder, tmp_path / "changed")
    tiny.amend(changed / "scheduler" / "scheduler_config.json", shift_terminal=0.02)
    pipe = BASE.pipeline(changed)
    pipe.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 5, 5), mu=calculate_shift(16, 256, 8192, 0.5, 0.9))
    sigmas = BASE.model(changed).scheduler(Sample(scheduler=BASE.scheduler, steps=5)).sigmas
    torch.testing.assert_close(sigmas, pipe.scheduler.sigmas)
    assert float(sigmas[-2]) == pytest.approx(0.02)


def test_pictures_that_are_not_square(folder):
    model, how = BASE.model(folder), Sample(scheduler=BASE.scheduler, steps=2)
    wide = family_of(model.spec)(model.spec, Shape((16, 24, 3), 0, CAPTIONS))
    wide.initialise(0)
    wide.prepare_sampling(how, "cpu")
    ours = wide.sample(np.array([0, 1]), [5, 6], how).astype(int)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    theirs = BASE.pipeline(folder)(
        list(CAPTIONS[:2]), height=16, width=24, num_inference_steps=2, generator=generators, output_type="np"
    ).images
    assert np.abs(ours - (theirs * 255).round()).max() <= 1


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("transformer", {"in_channels": 20}, "in_channels is 20, but the autoencoder's latents need 16"),
        ("transformer", {"guidance_embeds": True}, "guidance_embeds is true, which QwenImagePipeline"),
        ("transformer", {"use_additional_t_cond": True}, "use_additional_t_cond is true"),
        ("vae", {"latents_std": [1.0, 2.0]}, "must both be set, with 4 numbers each"),
        ("vae", {"input_channels": 4}, "takes images of 4 channels"),
    ],
)
def test_other_networks_are_refused(folder, tmp_path, file, settings, message):
    changed = shutil.copytree(folder, tmp_path / "changed")
    tiny.amend(changed / file / "config.json", **settings)
    with pytest.raises(ConfigError, match=message):
        BASE.model(changed)


def test_images_must_be_divisible(folder):
    spec = BASE.model(folder).spec
    with pytest.raises(ConfigError, match=r"data\.image_size=18 is not a multiple of 4"):
        family_of(spec)(spec, Shape((18, 18, 3), 0, CAPTIONS))


def test_the_check_before_training_passes(folder):
    BASE.model(folder).check_sampling(Sample(scheduler=BASE.scheduler, steps=2, guidance_scale=4.0))
