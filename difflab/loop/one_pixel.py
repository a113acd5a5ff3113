"""Networks whose gradient torch computes wrongly in bfloat16 on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from difflab.core.errors import ConfigError
from difflab.loop import passes


def strided_at_one_pixel(model: Any, device: str) -> list[str]:
    """Names of the convolutions with a stride that read images of a single pixel.

    Of such a layer torch 2.14.1 reads memory that nobody wrote when it computes the gradient of the weights
    in bfloat16 on a CPU: the gradient depends on what was there, and can be NaN. float32 is not affected, nor
    are larger images. Call `model.prepare_training` first.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            if max(inputs[0].shape[2:]) == 1:
                found.append(name)

        return hook

    layers = [
        (name, layer)
        for name, layer in model.net.named_modules()
        if isinstance(layer, torch.nn.Conv2d) and max(layer.stride) > 1
    ]
    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            model.predict(model.net, *passes.batch(model, 1, device))
    finally:
        for handle in handles:
            handle.remove()
    return found


def refuse_one_pixel(model: Any, precision: str, device: str) -> None:
    """Raise ConfigError if training in `precision` on `device` would have wrong gradients."""
    if precision != "bf16" or device != "cpu":
        return
    found = strided_at_one_pixel(model, device)
    if found:
        raise ConfigError(
            f"train.precision=bf16 on a CPU: layer {found[0]} halves images of a single pixel, and torch "
            "computes its gradient wrongly there; use train.precision=no, or larger images"
        )
