"""Flux.2 klein: patches, batch norm, the shift of the noise levels, and the loss of diffusers' training script."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import AutoencoderKLFlux2
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline, compute_empirical_mu
from parts import CAPTIONS
from safetensors.torch import load_file, save_file
from tiny_bases import flux2_klein

from difflab.config import Sample, Train
from difflab.core.errors import ConfigError
from difflab.core.shape import Shape
from difflab.models import family_of
from difflab.models.text_to_image.flux2 import empirical_shift, positions

pytestmark = tiny.LIBRARIES
BASE, DISTILLED = flux2_klein.BASES


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return BASE.write(tmp_path_factory.mktemp("base") / "klein")


@pytest.mark.parametrize("tokens", [4, 1024, 4300, 4301, 9000])
@pytest.mark.parametrize("steps", [1, 4, 50, 200])
def test_the_shift_is_that_of_diffusers(tokens, steps):
    assert empirical_shift(tokens, steps) == pytest.approx(compute_empirical_mu(tokens, steps))


def test_positions_are_those_of_the_pipeline():
    latents, states = torch.zeros(2, 16, 3, 5), torch.zeros(2, 7, 4)
    assert torch.equal(positions(2, "cpu", 1, 3, 5, 1), Flux2KleinPipeline._prepare_latent_ids(latents))
    assert torch.equal(positions(2, "cpu", 1, 1, 1, 7), Flux2KleinPipeline._prepare_text_ids(states))


def test_normalise_is_patchify_and_batch_norm(folder):
    architecture, vae = BASE.model(folder).architecture, AutoencoderKLFlux2.from_pretrained(folder / "vae")
    z = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    patches = Flux2KleinPipeline._patchify_latents(z)
    with torch.no_grad():  # an eval batch norm without weights does the same
        torch.testing.assert_close(architecture.normalise(z), vae.bn.eval()(patches), rtol=1e-5, atol=1e-6)


def test_the_loss_is_that_of_the_training_script(folder):
    """examples/dreambooth/train_dreambooth_lora_flux2_klein.py: mode of the posterior, patchify, batch norm, unshifted noise levels, e - x."""
    model, pipe, train = BASE.model(folder), BASE.pipeline(folder), Train()
    images = torch.from_numpy(tiny.images(4))
    drawn = model.draws(
        model.encoder("cpu")(images), torch.arange(4), slice(0, 4), 4, train, torch.Generator().manual_seed(1)
    )
    drawn["conditions"] = torch.arange(4)
    model.prepare_training(train, "cpu")
    with torch.no_grad():
        ours = model.loss(model.net, **drawn, train=train)
        z = pipe.vae.encode(images.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mode()
        bn = pipe.vae.bn
        std = torch.sqrt(bn.running_var.view(1, -1, 1, 1) + pipe.vae.config.batch_norm_eps)
        x = (pipe._patchify_latents(z) - bn.running_mean.view(1, -1, 1, 1)) / std
        sigma = pipe.scheduler.sigmas[drawn["t"]].view(-1, 1, 1, 1)
        times = pipe.scheduler.timesteps[drawn["t"]]
        noisy = (1 - sigma) * x + sigma * drawn["noise"]
        states, text_ids = pipe.encode_prompt(list(CAPTIONS))
        guess = pipe.transformer(
            hidden_states=pipe._pack_latents(noisy),
            timestep=times / 1000,
            guidance=None,
            encoder_hidden_states=states,
            txt_ids=text_ids,
            img_ids=pipe._prepare_latent_ids(noisy),
            return_dict=False,
        )[0]
        guess = pipe._unpack_latents_with_ids(guess, pipe._prepare_latent_ids(noisy))
        theirs = (guess - (drawn["noise"] - x)).square().flatten(1).mean(1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_weights_without_batch_norm_are_refused(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    file = broken / "vae" / tiny.WEIGHTS
    save_file({k: t for k, t in load_file(file).items() if k != "bn.running_var"}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"the weights lack bn\.running_var"):
        BASE.model(broken).architecture.normalise(torch.zeros(1, 4, 4, 4))


def test_a_distilled_base_takes_no_guidance(tmp_path):
    model = DISTILLED.model(DISTILLED.write(tmp_path / "distilled"))
    assert model.architecture.guidance == "none"
    model.check_sampling(Sample(scheduler=BASE.scheduler, guidance_scale=1.0))
    with pytest.raises(ConfigError, match=r"is distilled and takes no guidance; set sample.guidance_scale=1"):
        model.check_sampling(Sample(scheduler=BASE.scheduler, guidance_scale=4.0))


def test_images_must_be_divisible(folder):
    spec = BASE.model(folder).spec
    with pytest.raises(ConfigError, match=r"data\.image_size 18 is not a multiple of 4"):
        family_of(spec)(spec, Shape((18, 18, 3), 0, CAPTIONS))
    assert np.prod(BASE.model(folder).drawn) == 16 * 4 * 4
