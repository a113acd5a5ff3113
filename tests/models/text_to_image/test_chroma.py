"""Chroma: its mask, and its inputs beside those of Flux.1."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from parts import CAPTIONS
from tiny_bases import flux

from difflab.config import Sample
from difflab.core.errors import ConfigError, StoreError

pytestmark = tiny.LIBRARIES
BASE = flux.BASES[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return BASE.write(tmp_path_factory.mktemp("base") / "chroma")


def test_the_mask_covers_the_prompt_one_pad_and_the_image(folder):
    model, pipe = BASE.model(folder), BASE.pipeline(folder)
    texts = model.architecture.texts(pipe, list(CAPTIONS), "cpu")
    lengths = [len(pipe.tokenizer(caption).input_ids) for caption in CAPTIONS]
    assert texts["mask"].dtype == torch.bool and texts["mask"].sum(1).tolist() == [n + 1 for n in lengths]
    x = torch.zeros(4, *model.drawn)
    mask = model.architecture.further_inputs(x, texts, 1.0)["attention_mask"]
    theirs = pipe._prepare_attention_mask(4, 16, torch.float32, texts["mask"].float())
    assert torch.equal(mask, theirs) and mask.dtype == theirs.dtype == torch.float32


def test_a_mask_of_floats_is_added_to_the_logits(folder):
    """diffusers 0.42.1 gives attention a float mask of 0 and 1: padding is weighted by 1/e, not left out."""
    model = BASE.model(folder)
    model.prepare_sampling(Sample(scheduler=BASE.scheduler), "cpu")
    x, rows = torch.randn(2, *model.drawn, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    texts = model.texts(rows, 2, x)
    padded = texts["mask"].logical_not()
    with torch.no_grad():
        first, second = (
            model.architecture.predict(
                model.net, x, torch.tensor(500.0), texts | {"states": texts["states"] + noise}, 1.0
            )
            for noise in (0, padded[:, :, None])
        )
    assert (first - second).abs().mean() > 1e-3 * first.abs().mean()


def test_bases_of_another_architecture_are_refused(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    tiny.amend(broken / "transformer" / "config.json", _class_name="FluxTransformer2DModel")
    with pytest.raises(
        ConfigError, match=r"config of a FluxTransformer2DModel; difflab supports only Chroma"
    ):
        BASE.model(broken)
    other = shutil.copytree(folder, tmp_path / "other")
    shutil.rmtree(other / "text_encoder")
    tiny.text_encoder(tiny.tokenizer()).save_pretrained(other / "text_encoder")
    with pytest.raises(StoreError, match=r"text_encoder holds a model of type \w+, but"):
        BASE.model(other).check_sampling(Sample(scheduler=BASE.scheduler))
