"""How far weights moved: by hand, over files of other layouts, and what cannot be compared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import pytest
import tiny
import torch
from safetensors.torch import save_file

from difflab.core.errors import MeasureError, StoreError
from difflab.models.weights import cast, distance, like, trainable, whole


def saved(folder: Path, **tensors: list[float]) -> list[Path]:
    folder.mkdir(parents=True)
    save_file({name: torch.tensor(values) for name, values in tensors.items()}, folder / "x.safetensors")
    return [folder / "x.safetensors"]


def test_distance_by_hand(tmp_path):
    then = saved(tmp_path / "a" / "unet", w=[3.0, 0.0], b=[4.0])
    now = saved(tmp_path / "b" / "unet", w=[3.0, 1.0], b=[2.0])
    assert distance(now, then) == pytest.approx(math.sqrt(1 + 4) / 5, rel=1e-12)
    assert distance(then, then) == 0
    assert distance(then, now) == pytest.approx(math.sqrt(5 / 14), rel=1e-12)


def test_it_does_not_matter_over_how_many_files_and_in_which_type_weights_lie(tmp_path):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, generator=generator), torch.randn(20, generator=generator)
    (tmp_path / "one" / "unet").mkdir(parents=True)
    (tmp_path / "two" / "unet").mkdir(parents=True)
    save_file({"a": a, "b": b}, tmp_path / "one" / "unet" / "model.safetensors")
    save_file({"a": a.half()}, tmp_path / "two" / "unet" / "model.fp16-00001-of-00002.safetensors")
    save_file({"b": b.half()}, tmp_path / "two" / "unet" / "model.fp16-00002-of-00002.safetensors")
    one, two = (sorted((tmp_path / name / "unet").iterdir()) for name in ("one", "two"))
    assert 0 < distance(one, two) < 2**-11  # what rounding to half precision leaves


def test_equal_names_of_two_components_are_told_apart(tmp_path):
    then = saved(tmp_path / "a" / "unet", w=[1.0]) + saved(tmp_path / "a" / "text_encoder", w=[2.0])
    now = saved(tmp_path / "b" / "unet", w=[1.0]) + saved(tmp_path / "b" / "text_encoder", w=[3.0])
    assert distance(now, then) == pytest.approx(1 / math.sqrt(5))


def test_what_cannot_be_compared_says_why(tmp_path):
    then = saved(tmp_path / "a" / "unet", w=[1.0, 2.0])
    with pytest.raises(MeasureError, match=r"no weights are named unet/v in .*a/unet"):
        distance(saved(tmp_path / "b" / "unet", v=[1.0]), then)
    with pytest.raises(MeasureError, match=r"unet/w has shape \(1,\) in .* and \(2,\) in"):
        distance(saved(tmp_path / "c" / "unet", w=[1.0]), then)
    with pytest.raises(MeasureError, match="needs weights other than zero"):
        distance(then, saved(tmp_path / "d" / "unet", w=[0.0, 0.0]))
    with pytest.raises(MeasureError, match="no weights are named unet/w in any file"):
        distance(then, [])
    (tmp_path / "a" / "unet" / "x.safetensors").write_bytes(b"half")
    with pytest.raises(StoreError, match=r"x\.safetensors cannot be read"):
        distance(then, then)


def test_state_is_laid_out_as_its_weight():
    """A fused optimiser walks through weight and state in order of memory: another order would pair wrong numbers."""
    weight = torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last)
    state = torch.rand(4, 3, 2, 2)
    laid = like(state, weight)
    assert torch.equal(laid, state) and laid.stride() == weight.stride() != state.stride()
    assert like(torch.tensor(3.0), weight) == 3  # a step count has a shape of its own


def test_frozen_parameters_are_not_trainable():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    net[0].requires_grad_(False)
    assert list(trainable(net)) == ["1.weight", "1.bias"] and trainable(net)["1.bias"] is net[1].bias


def test_a_whole_tensor_is_a_copy_without_a_gradient():
    parameter = torch.nn.Parameter(torch.ones(2))
    copy = whole(parameter)
    copy += 1
    assert not copy.requires_grad and torch.equal(parameter.detach(), torch.ones(2))


def test_cast_keeps_the_layers_that_diffusers_keeps_in_float32():
    class Net(torch.nn.Module):
        _keep_in_fp32_modules: ClassVar = ["norm"]

        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = torch.nn.Linear(2, 2), torch.nn.LayerNorm(2)
            self.block = torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(2), "norms": torch.nn.LayerNorm(2)})
            self.register_buffer("steps", torch.arange(3))

    net = cast(Net(), "cpu", torch.bfloat16)
    kinds = {name: tensor.dtype for name, tensor in net.state_dict().items()}
    assert {name for name, kind in kinds.items() if kind == torch.float32} == {
        "norm.weight",
        "norm.bias",
        "block.norm.weight",
        "block.norm.bias",
    }
    assert kinds["first.weight"] == kinds["block.norms.bias"] == torch.bfloat16
    assert kinds["steps"] == torch.int64


def test_cast_of_a_diffusers_network_is_silent(caplog):
    """The network's own method `to` warns of layers in float32 even where there are none (diffusers 0.42.1)."""
    net = cast(tiny.unet(1), "cpu", torch.bfloat16)
    assert net.dtype == torch.bfloat16 and not caplog.records
