"""Weights: which ones are trained, their distance on disk, and whole tensors of sharded ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.tensor import DTensor, distribute_tensor

from difflab.core.errors import MeasureError, StoreError


def distance(files: list[Path], before: list[Path]) -> float:
    """Relative distance ||w - w0|| / ||w0||, Euclidean over all tensors; 0 = the same weights.

    w are the tensors of `files`, w0 those of the same names in `before`. The name of a tensor consists of its
    file's folder and its name in the file, so that the number of files does not matter. Tensors are read one
    by one: no second model is in memory.

    Raises MeasureError where `before` has other names or shapes or only zeros, StoreError for a damaged file.
    """
    where = _where(before)
    moved = size = 0.0
    for name, file in _where(files).items():
        if name not in where:
            raise MeasureError(
                f"no weights are named {name} in "
                f"{', '.join(sorted({str(f.parent) for f in before})) or 'any file'}"
            )
        now, then = _read(file, name), _read(where[name], name)
        if now.shape != then.shape:
            raise MeasureError(
                f"{name} is {tuple(now.shape)} in {file.parent} and {tuple(then.shape)} in "
                f"{where[name].parent}"
            )
        moved += float((now.float() - then.float()).square().sum(dtype=torch.float64))
        size += float(then.float().square().sum(dtype=torch.float64))
    if not size:
        raise MeasureError(
            "there are no weights but zeros to be relative to in "
            f"{', '.join(str(f) for f in before) or 'any file'}"
        )
    return math.sqrt(moved / size)


def _where(files: list[Path]) -> dict[str, Path]:
    """Folder and name of each tensor -> its file."""
    out = {}
    for file in files:
        try:
            with safe_open(file, "pt") as handle:
                for name in handle.keys():  # noqa: SIM118 (the handle is no dict)
                    out[f"{file.parent.name}/{name}"] = file
        except (OSError, SafetensorError) as error:
            raise StoreError(
                f"{file} cannot be read ({error}); delete it and run the same command again"
            ) from error
    return out


def _read(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, "pt") as handle:
        return handle.get_tensor(name.split("/", 1)[1])


def trainable(net: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters of a network that require a gradient, by name."""
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


def whole(tensor: Any) -> torch.Tensor:
    """A copy of the whole tensor on the CPU.

    All processes must call this together for a sharded one, which is gathered.
    """
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.detach().cpu().clone()


def like(tensor: torch.Tensor, other: Any) -> Any:
    """`tensor`, sharded and laid out in memory as `other`; unchanged where their shapes differ.

    Fused optimisers read weights and state in the order of memory, so that both must have the same layout.
    """
    if tensor.shape != other.shape:
        return tensor
    if isinstance(other, DTensor):
        return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
    return torch.empty_like(other, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
