"""Stable Diffusion XL's additional inputs and null condition."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch

from difflab.models.pretrained import open_base
from difflab.models.text_to_image.registry import pipelines_of

pytestmark = tiny.LIBRARIES


@pytest.fixture
def folder(tmp_path):
    return tiny.make("sdxl", tmp_path / "sdxl")


def opened(folder: Any) -> Any:
    return open_base(str(folder), pipelines_of("stable-diffusion"), "stable-diffusion")


@pytest.mark.parametrize("zeros", [False, True])
def test_the_null_condition_is_what_the_pipeline_makes_of_no_negative_prompt(folder, zeros):
    tiny.amend(folder / "model_index.json", force_zeros_for_empty_prompt=zeros)
    pipe = tiny.pipeline("sdxl", folder)
    _, states, _, pooled = pipe.encode_prompt("noto seal", device="cpu")
    ours = opened(folder).texts(["noto seal", None], "cpu")
    assert bool((pooled == 0).all()) is zeros
    torch.testing.assert_close(ours["states"][1:], states, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours["pooled"][1:], pooled, rtol=1e-4, atol=1e-5)
    assert ours["states"][0].abs().sum() > 0


def test_an_empty_caption_is_not_the_null_condition(folder):
    tiny.amend(folder / "model_index.json", force_zeros_for_empty_prompt=True)
    ours = opened(folder).texts(["", None], "cpu")["states"]
    assert ours[0].abs().sum() > 0 and ours[1].abs().sum() == 0


def test_the_network_gets_height_before_width(folder):
    called: dict[str, Any] = {}

    def net(x: torch.Tensor, t: torch.Tensor, **inputs: Any) -> Any:
        called.update(inputs)
        return SimpleNamespace(sample=x)

    architecture = opened(folder).architecture
    texts = {"states": torch.zeros(1, 77, 32), "pooled": torch.zeros(1, 16)}
    architecture.predict(net, torch.zeros(1, 4, 8, 12), torch.zeros(1), texts, 1.0)
    assert architecture.downsampling == 2
    assert called["added_cond_kwargs"]["time_ids"].tolist() == [[16, 24, 0, 0, 16, 24]]
