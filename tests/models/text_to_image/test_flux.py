"""Flux.1: the guidance scale as an input, packing, the shift, and the loss of diffusers' training script."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline, calculate_shift
from parts import CAPTIONS
from script_loss import losses
from steered import at
from tiny_bases import flux

from difflab.config import Sample, parse
from difflab.core.errors import ConfigError, StoreError
from difflab.core.shape import Shape
from difflab.loop.chain import run_chain
from difflab.models import family_of
from difflab.policies.sample.cads import Cads
from difflab.policies.sample.guidance_schedule import GuidanceSchedule

pytestmark = tiny.LIBRARIES
DEV, SCHNELL, _ = flux.BASES


@pytest.fixture(scope="module")
def dev(tmp_path_factory) -> Path:
    return DEV.write(tmp_path_factory.mktemp("base") / "dev")


@pytest.fixture(scope="module")
def schnell(tmp_path_factory) -> Path:
    return SCHNELL.write(tmp_path_factory.mktemp("base") / "schnell")


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_loss_is_that_of_the_training_script(scale, dev):
    """examples/dreambooth/train_dreambooth_lora_flux.py, whose --guidance_scale is model.embedded_guidance."""
    model, pipe = DEV.model(dev, embedded_guidance=scale), DEV.pipeline(dev)
    states, pooled, text_ids = pipe.encode_prompt(list(CAPTIONS))

    def clean(pixels: torch.Tensor) -> torch.Tensor:
        z = pipe.vae.encode(pixels).latent_dist.mode()
        return (z - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor

    def velocity(noisy: torch.Tensor, sigmas: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        n, c, h, w = noisy.shape
        guess = pipe.transformer(
            hidden_states=FluxPipeline._pack_latents(noisy, n, c, h, w),
            timestep=times / 1000,
            guidance=torch.full((n,), scale),
            pooled_projections=pooled,
            encoder_hidden_states=states,
            txt_ids=text_ids,
            img_ids=FluxPipeline._prepare_latent_image_ids(n, h // 2, w // 2, "cpu", torch.float32),
            return_dict=False,
        )[0]
        return FluxPipeline._unpack_latents(guess, 2 * h, 2 * w, 2)

    ours, theirs = losses(model, pipe, clean, velocity)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [16, 32])
def test_the_shift_depends_on_the_number_of_tokens(side, dev):
    spec = DEV.model(dev).spec
    model, pipe = family_of(spec)(spec, Shape((side, side, 3), 0, CAPTIONS)), DEV.pipeline(dev)
    pipe.scheduler.set_timesteps(sigmas=np.linspace(1, 0.2, 5), mu=calculate_shift((side // 4) ** 2))
    ours = model.scheduler(Sample(scheduler=DEV.scheduler, steps=5)).sigmas
    torch.testing.assert_close(ours, pipe.scheduler.sigmas)


def test_schnell_takes_no_guidance(schnell):
    model = SCHNELL.model(schnell)
    model.check_sampling(Sample(scheduler=SCHNELL.scheduler, guidance_scale=1.0))
    with pytest.raises(ConfigError, match=r"takes no guidance; set sample\.guidance_scale=1"):
        model.check_sampling(Sample(scheduler=SCHNELL.scheduler, guidance_scale=3.5))


def test_policies_change_the_embedded_scale_and_the_embedding(dev):
    model, how = DEV.model(dev), Sample(scheduler=DEV.scheduler, steps=2, guidance_scale=2.0)
    model.prepare_sampling(how, "cpu")

    def drawn(*policies, scale=2.0):
        model.steers = [policy.steer(at(), model) for policy in policies]
        return model.sample(np.array([0, 1]), [5, 6], how.model_copy(update={"guidance_scale": scale}))

    constant = GuidanceSchedule(policy="guidance_schedule", kind="linear", start=6.0, end=6.0)
    noisy = Cads(policy="cads", tau1=0.0, tau2=0.5, scale=1.0)
    assert np.array_equal(drawn(constant), drawn(scale=6.0))
    assert np.abs(drawn(constant).astype(int) - drawn()).mean() > 0.5
    assert np.abs(drawn(noisy).astype(int) - drawn()).mean() > 0.5


@pytest.mark.parametrize(
    ("base", "policy", "message"),
    [
        (
            DEV,
            {"policy": "base_guidance"},
            "base_guidance needs an unconditional prediction, but .* is an input",
        ),
        (
            SCHNELL,
            {"policy": "guidance_by_generation", "scales": [1, 3]},
            "guidance_by_generation sets the guidance scale, but .* takes no guidance; remove the policy",
        ),
        (SCHNELL, {"policy": "guidance_schedule", "start": 3}, "guidance_schedule sets the guidance scale"),
    ],
)
def test_policies_that_make_no_sense_are_refused_before_anything_runs(
    base, policy, message, dev, schnell, tmp_path
):
    folder, scale = (dev, 3.0) if base is DEV else (schnell, 1.0)
    config = base.config(folder, sample={"guidance_scale": scale}, policies=[policy])
    with pytest.raises(ConfigError, match=message):
        run_chain(parse(config), tmp_path / "run", plots=False)
    assert not (tmp_path / "run" / "gen-000").exists()


def test_bases_with_other_inputs_or_other_text_encoders_are_refused(dev, tmp_path):
    fill = shutil.copytree(dev, tmp_path / "fill")
    tiny.amend(fill / "transformer" / "config.json", in_channels=96)
    with pytest.raises(ConfigError, match=r"in_channels is 96, but the autoencoder's latents need 16"):
        DEV.model(fill)
    other = shutil.copytree(dev, tmp_path / "other")
    shutil.rmtree(other / "text_encoder_2")
    shutil.copytree(other / "text_encoder", other / "text_encoder_2")
    with pytest.raises(StoreError, match=r"text_encoder_2 holds a model of type \w+, but"):
        DEV.model(other).check_sampling(Sample(scheduler=DEV.scheduler))


def test_the_scripts_lora_is_saved_and_read_by_the_pipeline(dev, tmp_path):
    targets = ["attn.to_q", "attn.add_k_proj", "attn.to_add_out", "ff.net.0.proj", "ff_context.net.2"]
    model = DEV.model(dev, lora_rank=2, lora_targets=targets)
    model.save(tmp_path / "lora")
    model.check_saved(tmp_path / "lora")
    pipe = DEV.pipeline(dev)
    pipe.load_lora_weights(tmp_path / "lora")
    layers = [layer for layer in pipe.transformer.modules() if hasattr(layer, "lora_A")]
    assert len(layers) == 6  # attn.to_q is in the single block too


def test_images_must_be_divisible(dev):
    spec = DEV.model(dev).spec
    with pytest.raises(ConfigError, match=r"data\.image_size=18 is not a multiple of 4"):
        family_of(spec)(spec, Shape((18, 18, 3), 0, CAPTIONS))
