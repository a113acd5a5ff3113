"""Writes the LoRA layers of a run in the key layout of kohya's sd-scripts, which ComfyUI and A1111 read.

A layer has the keys ``lora_unet_NAME.lora_down.weight`` (A), ``.lora_up.weight`` (B) and ``.alpha``, where
NAME is the name of the layer with underscores. For SD 1.x and 2.x it is the name in diffusers, for SDXL, Flux
and Chroma that in the original code, as sd-scripts trains these models.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from difflab.core.errors import ConfigError, DataError, StoreError
from difflab.core.files import read_json, write_tensors
from difflab.models import kohya_flux, lora
from difflab.models.fused_lora import peft_name
from difflab.models.pretrained import Base
from difflab.models.registry import family_of
from difflab.models.single_file import quiet
from difflab.runs.run import Run

KINDS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", *kohya_flux.LAYOUTS)
"""The pipelines for whose networks this layout is defined and read by diffusers."""
RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
HEADS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
SIDES = {"down": "input_blocks", "up": "output_blocks"}
PARTS = {"resnets": 0, "attentions": 1}
MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}


def export_lora(run: Run, generation: int, file: Path) -> int:
    """Write the LoRA layers of a generation to a .safetensors file in kohya's layout. Returns their number.

    Raises:
        ConfigError: the run trains no LoRA, the generation has no model, or the layout is not defined for the
            base.
        DataError: the file exists, or has another ending.
        StoreError: the layers are damaged, or diffusers would not read all of them back.
    """
    spec: Any = run.config.model
    if not spec.trains_lora:
        raise ConfigError(
            f"{run.path} trains no LoRA (model.lora_rank is 0); its models are diffusers folders: gen-*/model"
        )
    if generation < 0 or not run.done(generation, "train"):
        trained = [t for t in range(run.config.generations + 1) if run.done(t, "train")]
        raise ConfigError(f"{run.path} has no model of generation {generation}; it has {trained or 'none'}")
    if file.suffix != ".safetensors" or file.exists():
        raise DataError(f"{file} exists or does not end in .safetensors; give --to a new file")
    model: Any = family_of(spec)(spec, run.shape)
    base: Base = model.base
    if base.kind not in KINDS:
        raise ConfigError(
            f"kohya's layout is not defined for a {base.kind}; "
            f"{run.gen(generation) / 'model' / lora.FILE} has the layout of diffusers"
        )
    layers = lora.layers_of(run.gen(generation) / "model", model.component, base)
    alpha = float(spec.lora_rank if spec.lora_alpha is None else spec.lora_alpha)
    state = to_kohya(layers, base, alpha)
    _check(state, layers, base, alpha)
    write_tensors(file, state, _metadata(spec.lora_rank, alpha, base))
    return len(layers) // 2


def to_kohya(layers: dict[str, torch.Tensor], base: Base, alpha: float) -> dict[str, torch.Tensor]:
    """The LoRA layers of a network, which have the names of peft, with the keys of kohya."""
    pairs = {
        key.removesuffix(".lora_A.weight"): (tensor, layers[key.replace("lora_A", "lora_B")])
        for key, tensor in layers.items()
        if key.endswith(".lora_A.weight")
    }
    if base.kind in kohya_flux.LAYOUTS:
        named = kohya_flux.original_layers(pairs, base.kind)
    else:
        depth = read_json(base.path / "unet" / "config.json").get("layers_per_block", 2)
        original = base.kind == "StableDiffusionXLPipeline"
        named = {original_name(k, depth) if original else k: (a, b, 1) for k, (a, b) in pairs.items()}
    state: dict[str, torch.Tensor] = {}
    for name, (a, b, factor) in named.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        state |= {f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b}
        state[f"{key}.alpha"] = torch.tensor(alpha * factor)
    return state


def original_name(name: str, layers_per_block: int) -> str:
    """The name in the original code of a layer of a UNet of diffusers."""
    for ours, theirs in HEADS.items():
        if name == ours:
            return theirs
    period = layers_per_block + 1
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)", name):
        position = int(match[2]) * period + int(match[4]) + (match[1] == "down")
        start = f"{SIDES[match[1]]}.{position}.{PARTS[match[3]]}"
    elif match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", name):
        start = f"input_blocks.{(int(match[1]) + 1) * period}.0.op"
    elif match := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", name):
        start = f"output_blocks.{(int(match[1]) + 1) * period - 1}.2.conv"
    elif match := re.match(r"mid_block\.((resnets|attentions)\.\d+)", name):
        start = f"middle_block.{MIDDLE[match[1]]}"
    else:
        raise ConfigError(f"the layer {name} has no name in the original code; change model.lora_targets")
    rest = name[match.end() :]
    for ours, theirs in RESNET.items():
        if rest == f".{ours}":
            rest = f".{theirs}"
    return start + rest


def _check(state: dict[str, torch.Tensor], layers: dict[str, torch.Tensor], base: Base, alpha: float) -> None:
    """Raise StoreError unless the pipeline of the base reads back all layers, and the same ones."""
    lost = (_lost_of_flux if base.kind in kohya_flux.LAYOUTS else _lost)(state, layers, base, alpha)
    if lost:
        raise StoreError(
            f"diffusers does not read back {len(lost)} of {len(layers)} LoRA tensors from kohya's layout, "
            f"the first is {lost[0]}; use the file in gen-*/model, or change lora_targets"
        )


def _lost(state: Any, layers: dict[str, torch.Tensor], base: Base, alpha: float) -> list[str]:
    """The tensors of a UNet that are not read back bit for bit, or "alpha"."""
    import diffusers

    config = read_json(base.path / "unet" / "config.json")
    settings = SimpleNamespace(layers_per_block=config.get("layers_per_block", 2))
    with quiet():
        read, alphas, *_ = getattr(diffusers, base.kind).lora_state_dict(dict(state), unet_config=settings)
    back = {peft_name("unet", key.removeprefix("unet.")): tensor for key, tensor in read.items()}
    lost = [name for name, t in layers.items() if name not in back or not torch.equal(back[name], t)]
    return lost or ["alpha"] * (len(back) > len(layers) or set(alphas.values()) != {alpha})


def _lost_of_flux(state: Any, layers: dict[str, torch.Tensor], base: Base, alpha: float) -> list[str]:
    """The B of the layers that are not read back as the same function, alpha / r B A x."""
    import diffusers

    try:
        with quiet():
            read = getattr(diffusers, base.kind).lora_state_dict(dict(state))
    except (
        AssertionError
    ):  # diffusers splits the first layer of single blocks at the widths of the published Flux.1
        return [name for name in layers if name.startswith("single_")]
    back = {key.removeprefix("transformer."): tensor for key, tensor in read.items()}
    lost = []
    for name, b in layers.items():
        if "lora_B" in name:
            a = layers[name.replace("lora_B", "lora_A")]
            x = torch.linspace(-1, 1, a.shape[1], dtype=a.dtype)
            b_back, a_back = (back.pop(k, torch.zeros(1)) for k in (name, name.replace("lora_B", "lora_A")))
            same = a_back.shape == a.shape and b_back.shape == b.shape
            if not same or not torch.allclose(
                b_back @ (a_back @ x), alpha / len(a) * (b @ (a @ x)), 1e-4, 1e-6
            ):
                lost.append(name)
    return lost + [name for name, tensor in back.items() if "lora_B" in name and tensor.any()]


def _metadata(rank: int, alpha: float, base: Base) -> dict[str, str]:
    """What sd-scripts writes into the header, as far as readers use it."""
    version = {"StableDiffusionXLPipeline": "sdxl_base_v1-0", "FluxPipeline": "flux1"}.get(base.kind)
    if base.kind == "StableDiffusionPipeline":
        wide = read_json(base.path / "unet" / "config.json").get("cross_attention_dim") == 1024
        version = "sd_v2" if wide else "sd_v1"
    written = {"format": "pt", "ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    if base.kind not in kohya_flux.LAYOUTS:
        written["ss_network_module"] = "networks.lora"
    elif kohya_flux.LAYOUTS[base.kind] is kohya_flux.FLUX:
        written["ss_network_module"] = "networks.lora_flux"
    if version is not None:
        written |= {"ss_base_model_version": version, "ss_v2": str(version == "sd_v2")}
    return written
