"""Z-Image: the loss of diffusers' training script, guidance from the conditional side, the tokens of padding, bad input."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift
from parts import CAPTIONS
from safetensors.torch import load_file, save_file
from script_loss import losses
from tiny_bases import z_image

from difflab.config import Sample
from difflab.core.errors import ConfigError, StoreError
from difflab.core.shape import Shape
from difflab.models import family_of

pytestmark = tiny.LIBRARIES
(BASE,) = z_image.BASES
FILE = Path("transformer") / "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return BASE.write(tmp_path_factory.mktemp("base") / "z-image")


def test_the_loss_is_that_of_the_training_script(folder):
    """examples/dreambooth/train_dreambooth_lora_z_image.py: mode of the posterior, time from noise to image, negated prediction."""
    model, pipe = BASE.model(folder), BASE.pipeline(folder)
    states, _ = pipe.encode_prompt(list(CAPTIONS), do_classifier_free_guidance=False)
    assert len({len(part) for part in states}) > 1

    def clean(pixels: torch.Tensor) -> torch.Tensor:
        z = pipe.vae.encode(pixels).latent_dist.mode()
        return (z - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor

    def velocity(noisy: torch.Tensor, sigmas: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        images = list(noisy.unsqueeze(2).unbind(0))
        guess = pipe.transformer(images, (1000 - times) / 1000, states, return_dict=False)[0]
        return -torch.stack(guess).squeeze(2)

    ours, theirs = losses(model, pipe, clean, velocity)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_network_gets_the_states_of_the_pipeline_without_padding(folder):
    model, pipe = BASE.model(folder), BASE.pipeline(folder)
    texts = model.architecture.texts(pipe, list(CAPTIONS), "cpu")
    states, _ = pipe.encode_prompt(list(CAPTIONS), do_classifier_free_guidance=False)
    seen = []

    def net(latents, time, captions, **_):
        seen.extend(captions)
        return (latents,)

    model.architecture.predict(net, torch.zeros(4, 4, 8, 8), torch.full((4,), 500.0), texts, 1.0)
    for got, wanted in zip(seen, states, strict=True):
        assert torch.equal(got, wanted)


def test_guidance_is_off_at_scale_0_only(folder):
    """At scale g the pipeline paints pos + g (pos - neg): this is g + 1 of the usual formula, and 1 is guidance."""
    model = BASE.model(folder)
    negative, positive = torch.randn(2, 2, 4, 8, 8).unbind()
    torch.testing.assert_close(
        model.combine(negative, positive, 3.0), positive + 3 * (positive - negative), rtol=1e-4, atol=1e-5
    )
    passes = [model.passes(Sample(guidance_scale=scale)) for scale in (0.0, 0.5, 1.0)]
    assert passes == [1, 2, 2]


def test_the_shift_grows_with_the_image_if_the_scheduler_wants_it(folder, tmp_path):
    changed = shutil.copytree(folder, tmp_path / "changed")
    tiny.amend(changed / "scheduler" / "scheduler_config.json", use_dynamic_shifting=True)
    model, pipe = BASE.model(changed), BASE.pipeline(changed)
    pipe.scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 5, 5).tolist(), mu=calculate_shift(16))
    scheduler = model.scheduler(Sample(scheduler=BASE.scheduler, steps=5))
    torch.testing.assert_close(scheduler.sigmas, pipe.scheduler.sigmas)
    assert not torch.allclose(scheduler.sigmas[1], torch.tensor(0.8))


@pytest.mark.parametrize("name", ["x_pad_token", "cap_pad_token"])
def test_tokens_of_padding_that_are_nan_or_missing_are_refused(folder, tmp_path, name):
    """Older versions of diffusers leave them uninitialised."""
    broken = shutil.copytree(folder, tmp_path / "broken")
    tensors = load_file(broken / FILE)
    save_file(tensors | {name: tensors[name] * float("nan")}, broken / FILE, {"format": "pt"})
    with pytest.raises(ConfigError, match=rf"{name} is not finite"):
        BASE.model(broken)
    save_file({key: t for key, t in tensors.items() if key != name}, broken / FILE, {"format": "pt"})
    with pytest.raises((ConfigError, StoreError), match=rf"the weights lack {name}"):
        BASE.model(broken)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_channels": 8}, "in_channels is 8, but the autoencoder's latents need 4"),
        ({"siglip_feat_dim": 8}, "reads images besides text"),
        ({"all_patch_size": [4]}, "uses patches of 2"),
    ],
)
def test_other_networks_are_refused(folder, tmp_path, settings, message):
    changed = shutil.copytree(folder, tmp_path / "changed")
    tiny.amend(changed / "transformer" / "config.json", **settings)
    with pytest.raises(ConfigError, match=message):
        BASE.model(changed)


def test_images_must_be_divisible(folder):
    spec = BASE.model(folder).spec
    with pytest.raises(ConfigError, match=r"data\.image_size=18 is not a multiple of 4"):
        family_of(spec)(spec, Shape((18, 18, 3), 0, CAPTIONS))


def test_the_check_before_training_needs_no_lengths(folder):
    """It runs on shapes alone, where the lengths of captions are not known."""
    BASE.model(folder).check_sampling(Sample(scheduler=BASE.scheduler, steps=2, guidance_scale=5.0))
