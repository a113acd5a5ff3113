"""Krea 2: layers of the text encoder without padding, guidance, shift of both kinds, the loss of diffusers' training script."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import Krea2Pipeline
from diffusers.pipelines.krea2.pipeline_krea2 import calculate_shift
from parts import CAPTIONS
from safetensors.torch import load_file, save_file
from script_loss import losses
from tiny_bases import krea2

from difflab.config import Sample
from difflab.core.errors import ConfigError, StoreError
from difflab.core.shape import Shape
from difflab.models import family_of

pytestmark = tiny.LIBRARIES
BASE, TURBO = krea2.BASES
SCRIPT_TARGETS = [
    "img_in",
    "final_layer.linear",
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "to_gate",
    "ff.up",
    "ff.down",
    "text_fusion.projector",
    "txt_in.linear_1",
    "txt_in.linear_2",
    "time_embed.linear_1",
    "time_embed.linear_2",
    "time_mod_proj",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return BASE.write(tmp_path_factory.mktemp("base") / "krea2")


@pytest.fixture(scope="module")
def turbo(tmp_path_factory) -> Path:
    return TURBO.write(tmp_path_factory.mktemp("base") / "turbo")


def test_the_loss_is_that_of_the_training_script(folder):
    """examples/dreambooth/train_dreambooth_lora_krea2.py (which draws from the posterior; here its mode is compared)."""
    model, pipe = BASE.model(folder), BASE.pipeline(folder)
    assert model.architecture.posterior == "sample"
    states, mask = pipe.encode_prompt(list(CAPTIONS))  # padded to 512 tokens, as in the script
    assert states.shape[:3] == (4, mask.shape[1], 3) and mask.shape[1] > 500
    mean, std = (
        torch.tensor(pipe.vae.config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std")
    )

    def clean(pixels: torch.Tensor) -> torch.Tensor:
        return ((pipe.vae.encode(pixels[:, :, None]).latent_dist.mode() - mean) / std)[:, :, 0]

    def velocity(noisy: torch.Tensor, sigmas: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        guess = pipe.transformer(
            hidden_states=pipe._pack_latents(noisy, *noisy.shape),
            encoder_hidden_states=states,
            timestep=times / 1000,
            position_ids=Krea2Pipeline.prepare_position_ids(states.shape[1], 4, 4, "cpu"),
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]
        return pipe._unpack_latents(guess, 16, 16)[:, :, 0]

    ours, theirs = losses(model, pipe, clean, velocity)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_padding_between_prompt_and_suffix_is_left_out(folder):
    """It is most of the 512 tokens, and each token has the states of several layers."""
    model, pipe = BASE.model(folder), BASE.pipeline(folder)
    texts = model.architecture.texts(pipe, list(CAPTIONS), "cpu")
    states, mask = pipe.encode_prompt(list(CAPTIONS))
    assert texts["mask"].sum(1).tolist() == mask.sum(1).tolist()
    assert texts["states"].shape[1] == int(mask.sum(1).max()) < 100
    for row in range(4):
        assert torch.equal(texts["states"][row][texts["mask"][row]], states[row][mask[row]])


def test_guidance_is_off_at_scale_0_only(folder):
    model = BASE.model(folder)
    negative, positive = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    wanted = positive + 4.5 * (positive - negative)
    torch.testing.assert_close(model.combine(negative, positive, 4.5), wanted, rtol=1e-4, atol=1e-5)
    assert [model.passes(Sample(guidance_scale=scale)) for scale in (0.0, 0.5)] == [1, 2]


@pytest.mark.parametrize("distilled", [False, True])
def test_the_shift_depends_on_the_size_unless_the_network_is_distilled(distilled, folder, turbo):
    base, path = (TURBO, turbo) if distilled else (BASE, folder)
    model, pipe = base.model(path), base.pipeline(path)
    mu = 1.15 if distilled else calculate_shift(16, 256, 6400, 0.5, 1.15)
    pipe.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 5, 5), mu=mu)
    sigmas = model.scheduler(Sample(scheduler=base.scheduler, steps=5)).sigmas
    torch.testing.assert_close(sigmas, pipe.scheduler.sigmas)


def test_a_distilled_base_takes_no_guidance(turbo):
    model = TURBO.model(turbo)
    model.check_sampling(Sample(scheduler=TURBO.scheduler, guidance_scale=0.0))
    with pytest.raises(ConfigError, match=r"is distilled and takes no guidance; set sample.guidance_scale=0"):
        model.check_sampling(Sample(scheduler=TURBO.scheduler, guidance_scale=1.0))


def test_the_targets_of_the_training_script_are_saved_and_read(folder, tmp_path):
    model = BASE.model(folder, lora_rank=2, lora_targets=SCRIPT_TARGETS)
    model.save(tmp_path)
    model.check_saved(tmp_path)


def test_settings_that_are_lists_are_no_components(folder, tmp_path):
    """text_encoder_select_layers is a list in model_index.json, and its name begins like that of an encoder."""
    base = BASE.model(folder).base
    assert isinstance(base.index["text_encoder_select_layers"], list)
    assert sorted(base.components) == ["scheduler", "text_encoder", "tokenizer", "transformer", "vae"]
    two = shutil.copytree(folder, tmp_path / "two")
    tiny.amend(two / "model_index.json", text_encoder_select_layers=[1, 2])
    with pytest.raises(ConfigError, match="the networks of"):
        BASE.model(two).check_sampling(Sample(scheduler=BASE.scheduler))


def test_missing_weights_are_refused(folder, tmp_path):
    """diffusers loads this network with low_cpu_mem_usage only, because it keeps its norms in float32."""
    broken = shutil.copytree(folder, tmp_path / "broken")
    file = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({k: t for k, t in load_file(file).items() if k != "txt_in.norm.weight"}, file, {"format": "pt"})
    with pytest.raises(StoreError, match=r"txt_in\.norm\.weight"):
        BASE.model(broken)


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("transformer/config.json", {"in_channels": 20}, "in_channels is 20, but the autoencoder's latents"),
        ("model_index.json", {"patch_size": 4}, "patch_size is 4; difflab supports only 2"),
    ],
)
def test_other_settings_are_refused(folder, tmp_path, file, settings, message):
    changed = shutil.copytree(folder, tmp_path / "changed")
    tiny.amend(changed / file, **settings)
    with pytest.raises(ConfigError, match=message):
        BASE.model(changed)


def test_images_must_be_divisible(folder):
    spec = BASE.model(folder).spec
    with pytest.raises(ConfigError, match=r"data\.image_size=18 is not a multiple of 4"):
        family_of(spec)(spec, Shape((18, 18, 3), 0, CAPTIONS))
