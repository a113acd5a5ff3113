"""PixArt: the loss on noise without the learned variance, older class names, captions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from parts import CAPTIONS
from tiny_bases import pictures, pixart

from difflab.config import Sample, Train
from difflab.core.errors import ConfigError, StoreError

pytestmark = tiny.LIBRARIES
SIGMA, ALPHA, _ = pixart.BASES


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return SIGMA.write(tmp_path_factory.mktemp("base") / "pixart")


@torch.no_grad()
def test_the_loss_is_on_noise_and_leaves_the_learned_variance_out(folder):
    model, pipe, train = SIGMA.model(folder), SIGMA.pipeline(folder), Train()
    images, rng = torch.from_numpy(tiny.images(4)), torch.Generator().manual_seed(1)
    drawn = model.draws(model.encoder("cpu")(images), torch.arange(4), slice(0, 4), 4, train, rng)
    drawn["conditions"] = torch.arange(4)
    model.prepare_training(train, "cpu")
    states, mask, *_ = pipe.encode_prompt(list(CAPTIONS), do_classifier_free_guidance=False)
    a = pipe.scheduler.alphas_cumprod[drawn["t"]].view(-1, 1, 1, 1)
    guess = pipe.transformer(
        a.sqrt() * drawn["x"] + (1 - a).sqrt() * drawn["noise"],
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        timestep=drawn["t"],
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        return_dict=False,
    )[0]
    assert guess.shape[1] == 8
    theirs = (guess.chunk(2, dim=1)[0] - drawn["noise"]).square().flatten(1).mean(1)
    torch.testing.assert_close(model.loss(model.net, **drawn, train=train), theirs, rtol=1e-4, atol=1e-5)


def test_published_folders_name_an_older_class(folder, tmp_path):
    """They are opened and saved so that the pipeline opens the result."""
    older = shutil.copytree(folder, tmp_path / "older")
    tiny.amend(older / "transformer" / "config.json", _class_name="Transformer2DModel")
    tiny.amend(older / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    model = SIGMA.model(older)
    model.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "transformer" / "config.json").read_text())["_class_name"]
    first, second = (
        pictures(SIGMA, SIGMA.pipeline(path), list(CAPTIONS[:2]), [1, 2], 2, 1.0)
        for path in (folder, tmp_path / "saved")
    )
    assert np.array_equal(first, second)
    tiny.amend(older / "transformer" / "config.json", _class_name="DiTTransformer2DModel")
    with pytest.raises(ConfigError, match=r"config of a DiTTransformer2DModel; difflab supports only PixArt"):
        SIGMA.model(older)


def test_captions_are_lower_case_and_not_cleaned_further(folder):
    model, pipe = SIGMA.model(folder), SIGMA.pipeline(folder)
    one, other = (model.architecture.texts(pipe, [text], "cpu") for text in ("A Red  Seal. ", "a red  seal."))
    assert torch.equal(one["states"], other["states"]) and torch.equal(one["mask"], other["mask"])
    assert one["mask"].shape == (1, 300)  # alpha: 120


def test_alpha_reads_fewer_tokens_and_gets_the_size(tmp_path):
    folder = ALPHA.write(tmp_path / "alpha")
    architecture = ALPHA.model(folder).architecture
    assert architecture.texts(ALPHA.pipeline(folder), ["a"], "cpu")["mask"].shape == (1, 120)
    sizes = architecture.conditions(torch.zeros(2, 4, 8, 16))
    assert sizes["resolution"].tolist() == [[16, 32]] * 2 and sizes["aspect_ratio"].tolist() == [[0.5]] * 2


def test_another_text_encoder_is_refused(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    shutil.rmtree(other / "text_encoder")
    tiny.text_encoder(tiny.tokenizer()).save_pretrained(other / "text_encoder")
    with pytest.raises(StoreError, match=r"text_encoder holds a model of type \w+, but"):
        SIGMA.model(other).check_sampling(Sample(scheduler=SIGMA.scheduler))
