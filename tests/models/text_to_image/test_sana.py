"""Sana: an autoencoder without a distribution, the instruction before captions, its schedulers, the loss of diffusers' training script."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import SanaPipeline
from parts import CAPTIONS
from script_loss import losses
from tiny_bases import sana

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.core.shape import Shape
from difflab.models import family_of

pytestmark = tiny.LIBRARIES
BASE, SOLVER = sana.BASES


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return BASE.write(tmp_path_factory.mktemp("base") / "sana")


@pytest.fixture(scope="module")
def texts(folder) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """What a call of the pipeline with its defaults gives the network: states and mask of two captions, and of their negatives."""
    pipe, seen = BASE.pipeline(folder), {}
    original = pipe.transformer.forward

    def forward(x, **inputs):
        seen["states"], seen["mask"] = inputs["encoder_hidden_states"], inputs["encoder_attention_mask"]
        return original(x, **inputs)

    pipe.transformer.forward = forward
    call = {"height": 32, "width": 32, "num_inference_steps": 1, "use_resolution_binning": False}
    pipe(list(CAPTIONS[:2]), **call, guidance_scale=4.5, output_type="latent")
    parts = zip(seen["states"].chunk(2), seen["mask"].chunk(2), strict=True)
    return dict(zip(("negative", "positive"), parts, strict=True))


def test_captions_follow_the_instruction_and_the_null_condition_does_not(folder, texts):
    model, pipe = BASE.model(folder), BASE.pipeline(folder)
    ours = model.architecture.texts(pipe, list(CAPTIONS[:2]), "cpu")
    null = model.architecture.null_text(pipe, "cpu")
    states, mask = texts["positive"]
    assert torch.equal(ours["states"], states) and torch.equal(ours["mask"], mask.bool())
    states, mask = texts["negative"]
    assert torch.equal(null["states"], states[:1]) and torch.equal(null["mask"], mask[:1].bool())
    plain = model.architecture.texts(pipe, [""], "cpu")
    assert not torch.equal(plain["states"], null["states"])


def test_the_loss_is_that_of_the_training_script(folder):
    """examples/dreambooth/train_dreambooth_lora_sana.py, with the pipeline's instruction as --complex_human_instruction."""
    model, pipe = BASE.model(folder), BASE.pipeline(folder)
    ours = model.architecture.texts(pipe, list(CAPTIONS), "cpu")

    def clean(pixels: torch.Tensor) -> torch.Tensor:
        return pipe.vae.encode(pixels).latent * pipe.vae.config.scaling_factor

    def velocity(noisy: torch.Tensor, sigmas: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return pipe.transformer(
            hidden_states=noisy,
            encoder_hidden_states=ours["states"],
            encoder_attention_mask=ours["mask"],
            timestep=times,
            return_dict=False,
        )[0]

    ours_loss, theirs = losses(model, pipe, clean, velocity)
    torch.testing.assert_close(ours_loss, theirs, rtol=1e-4, atol=1e-5)


def test_latents_have_no_spread(folder):
    encoded = BASE.model(folder).encoder("cpu")(torch.from_numpy(tiny.images(2, 32)))
    mean, std = encoded.chunk(2, dim=1)
    assert mean.shape == (2, 4, 8, 8) and mean.std() > 0 and not std.any()


def test_a_learned_variance_is_left_out(folder):
    """As in the pipeline the first half of the channels is the prediction."""
    architecture, x = BASE.model(folder).architecture, torch.randn(1, 4, 8, 8)
    texts = {"states": torch.zeros(1, 3, 8), "mask": torch.ones(1, 3, dtype=torch.bool)}
    out = torch.randn(1, 8, 8, 8)
    got = architecture.predict(lambda *_, **__: (out,), x, torch.tensor([500.0]), texts, 1.0)
    assert torch.equal(got, out[:, :4])


def test_a_folder_with_the_solver_of_the_authors_is_trained_as_in_the_script(tmp_path):
    """The training script reads the solver's config with the Euler scheduler, which does not know flow_shift."""
    folder = SOLVER.write(tmp_path / "solver")
    model, how = SOLVER.model(folder), Sample(scheduler=SOLVER.scheduler, steps=4, guidance_scale=4.5)
    model.check_sampling(how)
    torch.testing.assert_close(model.noise.sigmas, torch.linspace(1, 0.001, 1000))
    assert float(model.scheduler(how).sigmas[2]) == pytest.approx(3 * 0.5 / (1 + 2 * 0.5), abs=0.01)
    tiny.amend(folder / "scheduler" / "scheduler_config.json", prediction_type="epsilon")
    with pytest.raises(ConfigError, match="is not a flow-matching scheduler"):
        SOLVER.model(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_channels": 8}, "in_channels is 8, but the autoencoder's latents need 4"),
        ({"guidance_embeds": True}, "guidance_embeds is true, which SanaPipeline cannot run"),
    ],
)
def test_other_networks_are_refused(folder, tmp_path, settings, message):
    changed = shutil.copytree(folder, tmp_path / "changed")
    tiny.amend(changed / "transformer" / "config.json", **settings)
    with pytest.raises(ConfigError, match=message):
        BASE.model(changed)


def test_sides_are_multiples_of_32(folder):
    """Also for autoencoders that make images less small."""
    spec, pipe = BASE.model(folder).spec, BASE.pipeline(folder)
    with pytest.raises(ConfigError, match=r"data\.image_size=48 is not a multiple of 32"):
        family_of(spec)(spec, Shape((48, 48, 3), 0, CAPTIONS))
    assert isinstance(pipe, SanaPipeline)
    with pytest.raises(ValueError, match="divisible by 32"):
        pipe("a", height=48, width=48, use_resolution_binning=False)
    assert np.prod(BASE.model(folder).drawn) == 4 * 8 * 8
