"""Quantised frozen weights: the numbers of the layers, their gradients and memory, training, sampling and saving."""

from __future__ import annotations

import copy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from difflab.config import Sample, Train, parse
from difflab.core.errors import ConfigError
from difflab.loop import checks
from difflab.loop.precision import accelerator_of
from difflab.loop.training_loop import fit
from difflab.models import quantised
from difflab.models.quantised import Int8Linear, check_package, layers_to_quantise, quantise
from difflab.models.weights import trainable
from difflab.pretraining.autoencoder import Memory

NEEDS_BITSANDBYTES = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra gpu)"
)
KINDS = ["int8", pytest.param("nf4", marks=NEEDS_BITSANDBYTES)]
pytestmark = tiny.LIBRARIES


def layer(inputs: int = 64, outputs: int = 32, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(inputs, outputs).requires_grad_(False)


def in_float(backbone: nn.Module, original: nn.Module) -> nn.Module:
    """A copy of `original` whose layers have the quantised weights of `backbone`, as floats."""
    plain = copy.deepcopy(original)
    for name, linear in layers_to_quantise(plain).items():
        small = backbone.get_submodule(name)
        if isinstance(small, Int8Linear):
            linear.weight.data = small.weight * small.scale
        else:
            from bitsandbytes.functional import dequantize_4bit

            linear.weight.data = dequantize_4bit(small.weight.data, small.weight.quant_state).float()
    return plain


# ------------------------------------------------------------------------------------------------ one layer
def test_a_weight_is_off_by_at_most_half_a_step():
    linear = layer()
    with torch.no_grad():
        linear.weight[3] = 0  # an output without weights
        linear.weight[4, 5] = 100.0  # an outlier in one output changes the step of this output only
    small = Int8Linear(linear, torch.float32, "cpu")
    step = linear.weight.abs().amax(1, keepdim=True) / 127
    error = (small.weight * small.scale - linear.weight).abs()
    assert small.weight.dtype == torch.int8 and (error <= step / 2 + 1e-7).all() and error.max() > 0
    assert (small.weight[3] == 0).all() and torch.isfinite(small(torch.ones(1, 64))).all()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_output_and_gradient_are_those_of_the_rounded_weights(kind):
    linear = layer()
    small = Int8Linear(linear, kind, "cpu")
    linear.weight.data = small.weight * small.scale
    linear = linear.to(kind)
    x = torch.randn(5, 3, 64).to(kind)
    a, b = (x.clone().requires_grad_() for _ in range(2))
    out, reference = small(a), linear(b)
    assert out.dtype == kind
    tolerance = 1e-6 if kind == torch.float32 else 2e-2
    torch.testing.assert_close(out, reference, atol=tolerance, rtol=tolerance)
    out.square().sum().backward()
    reference.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=20 * tolerance, rtol=tolerance)


def test_the_backward_pass_keeps_only_int8_weights():
    """Autograd would keep a weight in float for every layer, which would be as large as the base."""
    kept: list[Any] = []
    small = Int8Linear(layer(), torch.float32, "cpu")
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        small(torch.randn(2, 64, requires_grad=True))
    assert {t.dtype for t in kept if t.shape == (32, 64)} == {torch.int8}


def test_scales_stay_float32_when_the_network_is_cast():
    small = Int8Linear(layer(), torch.float32, "cpu")
    before = small.scale.clone()
    network = nn.Sequential(small).to(torch.bfloat16)
    assert small.scale.dtype == torch.float32 and torch.equal(small.scale, before)
    assert small.weight.dtype == torch.int8 and small.bias.dtype == torch.bfloat16
    assert network(torch.randn(2, 64)).dtype == torch.float32


# ---------------------------------------------------------------------------------------------- a network
@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    return {kind: tiny.make(kind, tmp_path_factory.mktemp("base") / kind) for kind in ("sd15", "sd3")}


def model(folder: Path, quantize: str, kind: str = "sd3") -> Any:
    return tiny.model(kind, folder, lora_rank=2, quantize=quantize)


@pytest.mark.parametrize("quantize", KINDS)
@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_the_blocks_are_quantised_and_nothing_else(kind, quantize, made):
    ours = model(made[kind], quantize, kind)
    original = copy.deepcopy(ours.backbone)
    names = set(layers_to_quantise(original))
    assert names and not [n for n in names if ".lora_" in n]
    assert not [
        n for n in names if n.startswith(("time_", "proj_out", "conv", "pos_embed", "context_embedder"))
    ]
    ours.prepare_training(Train(), "cpu")
    for name, module in ours.backbone.named_modules():
        if isinstance(original.get_submodule(name), nn.Linear):
            assert (type(module) is not nn.Linear) == (name in names), name
    assert not layers_to_quantise(ours.backbone)  # a second call changes nothing
    assert all(p.dtype == torch.float32 for p in trainable(ours.net).values())


@pytest.mark.parametrize("quantize", KINDS)
def test_a_network_predicts_and_learns_as_one_with_the_rounded_weights(quantize, made):
    ours, plain = model(made["sd3"], quantize), model(made["sd3"], "none")
    for each in (ours, plain):
        for i, (name, p) in enumerate(trainable(each.backbone).items()):
            if "lora_B" in name:
                p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) / 10
    ours.prepare_training(Train(), "cpu")
    plain.backbone = in_float(ours.backbone, plain.backbone)
    plain.prepare_training(Train(), "cpu")
    x, t = torch.randn(2, *ours.drawn), torch.tensor([10.0, 500.0])
    outs = [each.predict(each.net, x, t, torch.tensor([1, 3])) for each in (ours, plain)]
    torch.testing.assert_close(*outs, atol=1e-4, rtol=1e-4)
    for out in outs:
        out.square().mean().backward()
    ours_by_name, plain_by_name = trainable(ours.net), trainable(plain.net)
    assert ours_by_name.keys() == plain_by_name.keys()
    for name, p in ours_by_name.items():
        torch.testing.assert_close(p.grad, plain_by_name[name].grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("quantize", KINDS)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_sampling_and_saving(quantize, precision, made, tmp_path):
    """The LoRA of a quantised base is loaded by the plain pipeline, into weights that are not quantised."""
    folder = made["sd3"]
    ours = model(folder, quantize)
    train = Train(
        images_seen=24, batch_size=6, learning_rate=3e-3, precision=precision, gradient_checkpointing=True
    )
    ours.prepare_training(train, "cpu")
    before = {name: p.detach().clone() for name, p in trainable(ours.net).items()}
    values = np.random.default_rng(0).random((9, 8, 8, 8)).astype(np.float32)
    accelerator = accelerator_of(precision)
    fit(ours, Memory(values, np.arange(9) % 7), train, (0, 0), tmp_path / "t", accelerator, lambda n: None)
    assert all(
        not torch.equal(p, before[name]) for name, p in trainable(ours.net).items() if "lora_B" in name
    )
    (tmp_path / "model").mkdir()
    ours.save(tmp_path / "model")
    ours.check_saved(tmp_path / "model")
    again = type(ours).load(ours.spec, ours.shape, tmp_path / "model")
    sampling = Sample(**tiny.sampler("sd3"), precision=precision)
    again.prepare_sampling(sampling, "cpu")
    images = again.sample(np.array([0, 5, 2]), [1, 2, 3], sampling)
    assert images.shape == (3, 16, 16, 3) and images.std() > 1
    pipe = tiny.pipeline("sd3", folder)
    pipe.load_lora_weights(tmp_path / "model")
    assert type(pipe.transformer.transformer_blocks[0].attn.to_q.base_layer) is nn.Linear
    loaded = {
        n.replace("default_0", "default"): p for n, p in pipe.transformer.named_parameters() if ".lora_" in n
    }
    assert loaded.keys() == before.keys()
    for name, p in trainable(ours.net).items():
        assert torch.equal(loaded[name], p), name


def test_int8_paints_nearly_the_same_and_takes_fewer_bytes(made):
    images, sizes = [], []
    for quantize in ("none", "int8"):
        each, sampling = model(made["sd3"], quantize), Sample(**tiny.sampler("sd3"))
        each.prepare_sampling(sampling, "cpu")
        sizes.append(sum(p.nbytes for p in each.net.parameters()))
        images.append(each.sample(np.array([0, 5, 2]), [1, 2, 3], sampling).astype(int))
    assert sizes[1] < 0.6 * sizes[0] and 0 < np.abs(images[0] - images[1]).mean() < 5


# -------------------------------------------------------------------------------------------- bad settings
def test_it_needs_lora():
    with pytest.raises(
        ConfigError, match=r"quantize=int8 freezes the weights.*set lora_rank=16 or quantize=none"
    ):
        parse({"model": {"family": "flow", "base": "x", "quantize": "int8"}})
    with pytest.raises(ConfigError, match="quantize"):
        parse({"model": {"family": "flow", "base": "x", "lora_rank": 4, "quantize": "int7"}})


def test_a_missing_package_is_found_before_the_run(monkeypatch, made):
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    config = tiny.config("sd3", made["sd3"], model={"lora_rank": 2, "quantize": "nf4"})
    with pytest.raises(ConfigError, match="nf4 needs the package bitsandbytes: pip install"):
        checks.check(config)
    check_package("int8")
    check_package("none")


def test_it_is_part_of_the_recipe(made):
    from difflab.config.schema import recipe_of

    kinds = [tiny.config("sd3", made["sd3"], model={"lora_rank": 2, "quantize": q}) for q in ("none", "int8")]
    assert recipe_of(kinds[0]) != recipe_of(kinds[1])


def test_quantise_in_place_is_for_blocks():
    network = nn.ModuleDict({"blocks": nn.ModuleList([layer(), layer()]), "out": layer()})
    quantise(network, "int8", torch.float32, "cpu")
    assert type(network["blocks"][0]) is Int8Linear and type(network["out"]) is nn.Linear
    assert "torchao" not in sys.modules
