"""Lumina 2: sign and time, the system prompt, the shift, and the loss of diffusers' training script."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from parts import CAPTIONS, t5
from script_loss import losses
from tiny_bases import lumina2

from difflab.config import Sample
from difflab.core.errors import StoreError
from difflab.core.shape import Shape
from difflab.models import family_of

pytestmark = tiny.LIBRARIES
(BASE,) = lumina2.BASES


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return BASE.write(tmp_path_factory.mktemp("base") / "lumina2")


def test_the_loss_is_that_of_the_training_script_at_the_reversed_noise_level(folder):
    """examples/dreambooth/train_dreambooth_lora_lumina2.py: (1 - r) e + r x at r = 1 - s, timestep r, target x - e."""
    model, pipe = BASE.model(folder), BASE.pipeline(folder)
    states, mask, *_ = pipe.encode_prompt(list(CAPTIONS), do_classifier_free_guidance=False)

    def clean(pixels: torch.Tensor) -> torch.Tensor:
        z = pipe.vae.encode(pixels).latent_dist.mode()
        return (z - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor

    def velocity(noisy: torch.Tensor, sigmas: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return -pipe.transformer(
            hidden_states=noisy,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            timestep=1 - sigmas,
            return_dict=False,
        )[0]

    ours, theirs = losses(model, pipe, clean, velocity)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_null_condition_has_no_system_prompt(folder):
    model, pipe = BASE.model(folder), BASE.pipeline(folder)
    null = model.architecture.null_text(pipe, "cpu")
    tokens = pipe.tokenizer(["", pipe.system_prompt + " <Prompt Start> "]).input_ids
    assert null["mask"].sum() == len(tokens[0])
    assert model.architecture.texts(pipe, [""], "cpu")["mask"].sum() == len(tokens[1]) > 100
    assert null["mask"].dtype == torch.bool


@pytest.mark.parametrize("side", [32, 64])
def test_the_shift_is_that_of_the_pipeline_for_every_size(side, folder):
    spec = BASE.model(folder).spec
    model, pipe = family_of(spec)(spec, Shape((side, side, 3), 0, CAPTIONS)), BASE.pipeline(folder)
    pipe(prompt="", height=side, width=side, num_inference_steps=3, output_type="latent")
    ours = model.scheduler(Sample(scheduler=BASE.scheduler, steps=3)).sigmas
    torch.testing.assert_close(ours, pipe.scheduler.sigmas)


def test_another_text_encoder_is_refused(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    shutil.rmtree(other / "text_encoder")
    t5()[0].save_pretrained(other / "text_encoder")
    with pytest.raises(StoreError, match=r"text_encoder holds a model of type \w+, but"):
        BASE.model(other).check_sampling(Sample(scheduler=BASE.scheduler))
