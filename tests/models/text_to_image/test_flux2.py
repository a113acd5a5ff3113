"""Flux.2 dev and klein: patches, batch norm, the shift of the noise levels, and the loss of diffusers' training script."""

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
from script_loss import losses
from tiny_bases import flux2_dev, flux2_klein

from difflab.config import Sample
from difflab.core.errors import ConfigError, StoreError
from difflab.core.shape import Shape
from difflab.models import family_of
from difflab.models.text_to_image.flux2 import empirical_shift, positions

pytestmark = tiny.LIBRARIES
BASE, DISTILLED = flux2_klein.BASES
(DEV,) = flux2_dev.BASES


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


@pytest.mark.parametrize(("base", "scale"), [(BASE, None), (DEV, 1.0), (DEV, 6.0)], ids=str)
def test_the_loss_is_that_of_the_training_script(base, scale, tmp_path):
    """examples/dreambooth/train_dreambooth_lora_flux2(_klein).py: mode of the posterior, patchify, batch norm, unshifted noise levels, e - x."""
    written = base.write(tmp_path / "base")
    model, pipe = base.model(written, embedded_guidance=scale or 3.5), base.pipeline(written)
    states, text_ids = pipe.encode_prompt(list(CAPTIONS))

    def clean(pixels: torch.Tensor) -> torch.Tensor:
        z, bn = pipe.vae.encode(pixels).latent_dist.mode(), pipe.vae.bn
        std = torch.sqrt(bn.running_var.view(1, -1, 1, 1) + pipe.vae.config.batch_norm_eps)
        return (pipe._patchify_latents(z) - bn.running_mean.view(1, -1, 1, 1)) / std

    def velocity(noisy: torch.Tensor, sigmas: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        ids = pipe._prepare_latent_ids(noisy)
        guess = pipe.transformer(
            hidden_states=pipe._pack_latents(noisy),
            timestep=times / 1000,
            guidance=None if scale is None else torch.full((4,), scale),
            encoder_hidden_states=states,
            txt_ids=text_ids,
            img_ids=ids,
            return_dict=False,
        )[0]
        return pipe._unpack_latents_with_ids(guess, ids)

    assert model.architecture.posterior == "mode"
    ours, theirs = losses(model, pipe, clean, velocity)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_dev_takes_guidance_as_an_input_if_the_network_has_it(tmp_path):
    folder = DEV.write(tmp_path / "dev")
    architecture = DEV.model(folder).architecture
    assert architecture.guidance == "embedded"
    tiny.amend(folder / "transformer" / "config.json", guidance_embeds=False)
    assert type(architecture)(folder, architecture.index).guidance == "none"


def test_a_text_encoder_of_klein_is_refused_in_dev(folder, tmp_path):
    other = DEV.write(tmp_path / "dev")
    shutil.rmtree(other / "text_encoder")
    shutil.copytree(folder / "text_encoder", other / "text_encoder")
    with pytest.raises(StoreError, match=r"text_encoder holds a model of type \w+, but"):
        DEV.model(other).check_sampling(Sample(scheduler=DEV.scheduler))


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
    with pytest.raises(ConfigError, match=r"data\.image_size=18 is not a multiple of 4"):
        family_of(spec)(spec, Shape((18, 18, 3), 0, CAPTIONS))
    assert np.prod(BASE.model(folder).drawn) == 16 * 4 * 4
