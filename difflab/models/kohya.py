"""Writes the LoRA layers of a run in the key layout of kohya's sd-scripts, which ComfyUI and A1111 read.

A layer has the keys ``lora_unet_NAME.lora_down.weight`` (A), ``.lora_up.weight`` (B) and ``.alpha``, where
NAME is the name of the layer with underscores. For SD 1.x and 2.x it is the name in diffusers, for SDXL that
in the original code of Stability AI, as sd-scripts trains these models.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from difflab.core.errors import ConfigError, DataError, StoreError
from difflab.core.files import read_json, write_tensors
from difflab.models import lora
from difflab.models.fused_lora import peft_name
from difflab.models.pretrained import Base
from difflab.models.registry import family_of
from difflab.models.single_file import quiet
from difflab.runs.run import Run

KINDS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
"""The pipelines for whose networks this layout is defined and read by diffusers."""
HALVES = {"lora_A": "lora_down", "lora_B": "lora_up"}
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
    """The LoRA layers of a UNet, which have the names of peft, with the keys of kohya."""
    config = read_json(base.path / "unet" / "config.json")
    state: dict[str, torch.Tensor] = {}
    for key, tensor in layers.items():
        name, _, half = key.removesuffix(".weight").rpartition(".")
        if base.kind == "StableDiffusionXLPipeline":
            name = original_name(name, config.get("layers_per_block", 2))
        name = f"lora_unet_{name.replace('.', '_')}"
        state[f"{name}.{HALVES[half]}.weight"] = tensor
        state[f"{name}.alpha"] = torch.tensor(alpha)
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
    """Raise StoreError unless the pipeline of the base reads back all layers bit for bit, and their alpha."""
    import diffusers

    config = read_json(base.path / "unet" / "config.json")
    settings = SimpleNamespace(layers_per_block=config.get("layers_per_block", 2))
    with quiet():
        read, alphas, *_ = getattr(diffusers, base.kind).lora_state_dict(dict(state), unet_config=settings)
    back = {peft_name("unet", key.removeprefix("unet.")): tensor for key, tensor in read.items()}
    lost = [name for name, t in layers.items() if name not in back or not torch.equal(back[name], t)]
    if lost or len(back) > len(layers) or set(alphas.values()) != {alpha}:
        raise StoreError(
            f"diffusers does not read back {len(lost)} of {len(layers)} LoRA tensors from kohya's layout, "
            f"the first is {(lost or ['alpha'])[0]}; use the file in gen-*/model, or change lora_targets"
        )


def _metadata(rank: int, alpha: float, base: Base) -> dict[str, str]:
    """What sd-scripts writes into the header, as far as readers use it."""
    version = "sdxl_base_v1-0"
    if base.kind == "StableDiffusionPipeline":
        wide = read_json(base.path / "unet" / "config.json").get("cross_attention_dim") == 1024
        version = "sd_v2" if wide else "sd_v1"
    return {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_base_model_version": version,
        "ss_v2": str(version == "sd_v2"),
    }
