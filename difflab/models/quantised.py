"""Frozen weights of a base in 8 or 4 bits under LoRA layers that are trained (Dettmers et al. 2305.14314)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from difflab.core.errors import ConfigError

BYTES = {"int8": 1.0, "nf4": 0.5 + 4 / 64}
"""Bytes of a quantised weight with its share of the scales: nf4 has one float32 scale for 64 weights."""


def check_package(quantize: str) -> None:
    """Raise ConfigError if ``model.quantize`` needs a package that is not installed."""
    if quantize == "nf4" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "model.quantize=nf4 needs the package bitsandbytes: pip install 'difflab[gpu]', or use "
            "model.quantize=int8"
        )


def layers_to_quantise(backbone: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers in repeated blocks by name, without LoRA layers and quantised ones.

    Embeddings of the input and of the time, the output layer and convolutions keep their type.
    """
    blocks = [name for name, module in backbone.named_modules() if isinstance(module, nn.ModuleList)]
    starts = tuple(f"{name}." for name in blocks)
    layers = {}
    for name, layer in backbone.named_modules():
        if type(layer) is nn.Linear and name.startswith(starts) and ".lora_" not in name:
            layers[name] = layer
    return layers


def quantise(backbone: nn.Module, quantize: str, kind: torch.dtype, device: Any) -> None:
    """Replace the linear layers of the backbone's blocks by quantised ones, one after the other.

    Their weights are frozen. Gradients pass through them to the LoRA layers.

    Args:
        backbone: the network.
        quantize: ``int8``, see `Int8Linear`; ``nf4`` = 4-bit NormalFloat with one scale for 64 weights, of
            bitsandbytes; ``none`` = nothing is done.
        kind: the type of products. Weights are rounded to it first.
        device: where the quantised weights are.

    Raises ConfigError if the package that it needs is not installed.
    """
    if quantize == "none":
        return
    check_package(quantize)
    make: Callable[[nn.Linear, torch.dtype, Any], nn.Module] = Int8Linear if quantize == "int8" else _nf4
    for name, layer in layers_to_quantise(backbone).items():
        backbone.set_submodule(name, make(layer, kind, device))


class _Int8Product(torch.autograd.Function):
    """x [..., in] times the transpose of q scale [out, in].

    The backward pass computes the weight again. Autograd would keep it in memory until then, for all layers.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(q, scale)
        return linear(x, (q * scale).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        q, scale = ctx.saved_tensors
        return gradient @ (q * scale).to(gradient.dtype), None, None


class Int8Linear(nn.Module):
    """A linear layer with frozen weights q scale, where q is int8 [out, in] and scale float32 [out, 1].

    The largest weight of each output is 127 times its scale, so a weight is off by at most scale / 2.

    Args:
        layer: the layer in float.
        kind: the type of products. The output has it.
        device: where the weights are.
    """

    scale: torch.Tensor

    def __init__(self, layer: nn.Linear, kind: torch.dtype, device: Any):
        super().__init__()
        self.in_features, self.out_features, self.kind = layer.in_features, layer.out_features, kind
        weight = layer.weight.data.to(device, kind).float()
        scale = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
        q = (weight / scale).round().clamp(-127, 127).to(torch.int8)
        self.weight = nn.Parameter(q, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = None
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.data.to(device, kind), requires_grad=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        scale = self.scale
        super()._apply(fn, recurse)
        self.scale = scale.to(self.weight.device)  # stays in float32
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = _Int8Product.apply(x.to(self.kind), self.weight, self.scale)
        return out if self.bias is None else out + self.bias.to(self.kind)


def _nf4(layer: nn.Linear, kind: torch.dtype, device: Any) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    bias = layer.bias is not None
    quantised = Linear4bit(
        layer.in_features, layer.out_features, bias, compute_dtype=kind, quant_type="nf4", device="meta"
    )
    weight = Params4bit(layer.weight.data.to(kind), requires_grad=False, quant_type="nf4")
    quantised.weight = weight.to(device)
    if bias:
        quantised.bias = nn.Parameter(layer.bias.data.to(device, kind), requires_grad=False)
    return quantised
