"""LoRA files in the layouts of diffusers, peft and kohya, with random layers."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
import torch
from safetensors.torch import save_file

State = dict[str, torch.Tensor]
RANK = 4


def layers(
    folder: Path, component: str, ends: tuple[str, ...], seed: int = 0
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer -> random A and B, for all layers of a component whose names have these ends."""
    rng = torch.Generator().manual_seed(seed)
    found = {}
    for key, weight in tiny.tensors(folder, component).items():
        name = key.removesuffix(".weight")
        if key.endswith(".weight") and name.endswith(ends):
            ones = (1,) * (weight.ndim - 2)
            down = torch.randn((RANK, *weight.shape[1:]), generator=rng) * 0.1
            found[name] = down, torch.randn((len(weight), RANK, *ones), generator=rng) * 0.1
    assert found
    return found


def kohya(found: dict[str, tuple[torch.Tensor, torch.Tensor]], prefix: str, alpha: float | None) -> State:
    """The layers as sd-scripts writes them."""
    state = {}
    for name, (down, up) in found.items():
        key = f"{prefix}_{name.replace('.', '_')}"
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        if alpha is not None:
            state[f"{key}.alpha"] = torch.tensor(alpha)
    return state


def peft(found: dict[str, tuple[torch.Tensor, torch.Tensor]], prefix: str) -> State:
    """The layers with peft's names below a component's name or peft's own prefix."""
    state = {}
    for name, (down, up) in found.items():
        state |= {f"{prefix}.{name}.lora_A.weight": down, f"{prefix}.{name}.lora_B.weight": up}
    return state


def diffusers(found: dict[str, tuple[torch.Tensor, torch.Tensor]], component: str) -> State:
    """The layers with the names that diffusers gives attention layers."""
    state = {}
    for name, (down, up) in found.items():
        state |= {f"{component}.{name}.lora.down.weight": down, f"{component}.{name}.lora.up.weight": up}
    return state


def write(state: State, file: Path, **metadata: dict[str, object]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.clone() for key, tensor in state.items()}
    save_file(state, file, {key: json.dumps(value) for key, value in metadata.items()} or None)
    return file


def added(
    folder: Path, component: str, found: dict[str, tuple[torch.Tensor, torch.Tensor]], factor: float
) -> State:
    """The weights of a component with the layers added, by the formula of the paper."""
    state = dict(tiny.tensors(folder, component))
    for name, (down, up) in found.items():
        weight = state[f"{name}.weight"].double()
        change = torch.einsum("or,ri->oi", up.flatten(1).double(), down.flatten(1).double())
        state[f"{name}.weight"] = (weight + factor * change.view(weight.shape)).float()
    return state
