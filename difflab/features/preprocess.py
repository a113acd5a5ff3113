"""How images become the input of a network: three channels, one side length, normalised values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from difflab.core.hashing import sha256_of
from difflab.features.resize import bicubic


def as_rgb(images_NCHW: Tensor) -> Tensor:
    """Grey images repeated over three channels; colour images unchanged."""
    if images_NCHW.shape[1] != 1:
        return images_NCHW
    # Contiguous, because another memory layout picks other kernels, which round differently.
    return images_NCHW.expand(-1, 3, -1, -1).contiguous()


def normalised(
    size: int, mean: Sequence[float], std: Sequence[float], state: Mapping[str, Tensor]
) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """The input of a network trained on images of `size` pixels a side with the channel statistics `mean` and
    `std`.

    Returns a function from uint8 [n, C, H, W] to floats [n, 3, size, size], and the part of the recipe that
    describes it. `state` is the state dict of the network, for its hash in that recipe.
    """
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))

    def prepare(images_NCHW: Tensor) -> Tensor:
        device = images_NCHW.device
        resized_NCHW = bicubic(as_rgb(images_NCHW).float(), size)
        return (resized_NCHW / 255 - shift.to(device)) / scale.to(device)

    return prepare, {
        "input": f"{size}x{size}",
        "resize": "bicubic antialias",
        "values": f"mean {list(mean)}, std {list(std)}",
        "dtype": "float32",
        "sha256": sha256_of(state),
    }
