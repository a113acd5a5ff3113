"""Qwen-Image 2.1: prompts of different lengths, the fourth channel of its autoencoder, and its own noise levels."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from parts import CAPTIONS
from tiny_bases import pictures, qwen_image_21

from difflab.config import Sample, parse
from difflab.core.errors import ConfigError
from difflab.loop.gpu_memory import stages

pytestmark = tiny.LIBRARIES
(BASE,) = qwen_image_21.BASES


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return BASE.write(tmp_path_factory.mktemp("base") / "qwen-image-2.1")


@torch.no_grad()
def test_a_prompt_gives_the_same_prediction_alone_and_beside_longer_ones(folder):
    model, pipe = BASE.model(folder), BASE.pipeline(folder)
    all_ = model.architecture.texts(pipe, list(CAPTIONS), "cpu")
    assert len(set(all_["mask"].sum(1).tolist())) == 3
    rng = torch.Generator().manual_seed(0)
    x, t = torch.randn(4, *model.drawn, generator=rng), torch.tensor([500.0, 20.0, 700.0, 990.0])
    together = model.architecture.predict(model.backbone, x, t, all_, 1.0)
    for row, caption in enumerate(CAPTIONS):
        one, part = model.architecture.texts(pipe, [caption], "cpu"), slice(row, row + 1)
        assert one["mask"].all()
        alone = model.architecture.predict(model.backbone, x[part], t[part], one, 1.0)
        torch.testing.assert_close(together[part], alone)


def test_the_pipeline_paints_another_picture_beside_a_longer_prompt(folder):
    """The reason for one length at a time. If diffusers changes this, `predict` needs one pass only."""
    pipe, short = BASE.pipeline(folder), CAPTIONS[1]
    both = pipe(
        [short, CAPTIONS[2]],
        height=32,
        width=32,
        num_inference_steps=2,
        true_cfg_scale=1.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        output_type="np",
    ).images[..., :3]
    alone = pictures(BASE, pipe, [short], [5], 2, 1.0).astype(int)
    assert abs((both[0] * 255).round() - alone[0]).max() > 2


def test_training_images_are_opaque(folder):
    model = BASE.model(folder)
    vae = BASE.pipeline(folder).vae
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    opaque = torch.cat([pixels, torch.ones(2, 1, 32, 32)], dim=1)
    with torch.no_grad():
        mean, std = model.architecture.encode(vae, pixels)
        theirs = vae.encode(opaque[:, :, None]).latent_dist
        assert model.architecture.decode(vae, mean).shape == (2, 3, 32, 32)
    torch.testing.assert_close(mean, theirs.mean[:, :, 0])
    torch.testing.assert_close(std, theirs.std[:, :, 0])


def test_noise_levels_of_the_base(folder, tmp_path):
    changed = shutil.copytree(folder, tmp_path / "changed")
    tiny.amend(changed / "model_index.json", sample_sigmas=[1.0, 0.7, 0.2])
    model, pipe = BASE.model(changed), BASE.pipeline(changed)
    assert pipe.config.sample_sigmas == [1.0, 0.7, 0.2]
    pipe(CAPTIONS[0], height=32, width=32, num_inference_steps=3, true_cfg_scale=1.0, output_type="latent")
    sigmas = model.scheduler(Sample(scheduler=BASE.scheduler, steps=3)).sigmas
    torch.testing.assert_close(sigmas, pipe.scheduler.sigmas)
    with pytest.raises(ConfigError, match=r"the 3 noise levels of its sample_sigmas; set sample\.steps=3"):
        model.scheduler(Sample(scheduler=BASE.scheduler, steps=5))


def test_another_text_encoder_is_found_before_training(folder, tmp_path):
    changed = shutil.copytree(folder, tmp_path / "changed")
    entries = len(BASE.pipeline(folder).processor.tokenizer)
    qwen_image_21.text_encoder(entries, width=16).save_pretrained(changed / "text_encoder")
    with pytest.raises(ConfigError, match=r"the networks of model\.base .* with images of 32 px"):
        BASE.model(changed).check_sampling(Sample(scheduler=BASE.scheduler, steps=2))


def test_the_memory_of_its_training_is_refused(folder):
    """An estimate of its first and last layers alone would be a wrong number."""
    with pytest.raises(ConfigError, match=r"plan --gpu cannot estimate Qwen-Image 2\.1"):
        list(stages(parse(BASE.config(folder))))
