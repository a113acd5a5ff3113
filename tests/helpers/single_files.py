"""Checkpoints in one file, in the key layout of the original code, written from diffusers folders.

The names follow the published checkpoints: SD 1.5 and SDXL as Stability AI and kohya write them, SD 3 as ComfyUI has its files.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import tiny
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

State = dict[str, torch.Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
HEADS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def _blocks(unet: Any) -> dict[str, str]:
    """Module of a diffusers UNet -> its name in the original code, by counting through the blocks."""
    names: dict[str, str] = {}
    position = 1
    for i, block in enumerate(unet.down_blocks):
        for j in range(len(block.resnets)):
            names[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{position}.0"
            names[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{position}.1"
            position += 1
        if block.downsamplers:
            names[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{position}.0.op"
            position += 1
    names |= {
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    position = 0
    for i, block in enumerate(unet.up_blocks):
        attends = hasattr(block, "attentions")
        for j in range(len(block.resnets)):
            names[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{position}.0"
            names[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{position}.1"
            position += 1
        if block.upsamplers:
            names[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{position - 1}.{1 + attends}.conv"
    return names


def unet(folder: Path) -> State:
    """The UNet of a folder with the keys of the original code, without their prefix."""
    blocks = _blocks(UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")))
    state = {}
    for key, tensor in tiny.tensors(folder).items():
        for ours, theirs in (HEADS | blocks).items():
            if key.startswith(f"{ours}."):
                rest = key.removeprefix(ours)
                if ".resnets." in f".{ours}":
                    for part, name in RESNET.items():
                        rest = rest.replace(f".{part}.", f".{name}.")
                state[theirs + rest] = tensor
                break
        else:
            raise AssertionError(key)
    return state


def vae(folder: Path) -> State:
    levels = len(tiny.vae(1.0).config.block_out_channels)
    state = {}
    for key, tensor in tiny.tensors(folder, "vae").items():
        name = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        for i in range(levels):
            name = name.replace(f"down_blocks.{i}.resnets.", f"down.{i}.block.")
            name = name.replace(f"down_blocks.{i}.downsamplers.0.", f"down.{i}.downsample.")
            name = name.replace(f"up_blocks.{i}.resnets.", f"up.{levels - 1 - i}.block.")
            name = name.replace(f"up_blocks.{i}.upsamplers.0.", f"up.{levels - 1 - i}.upsample.")
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            for ours, theirs in (
                ("group_norm", "norm"),
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ):
                name = name.replace(f".{ours}.", f".{theirs}.")
            if tensor.ndim == 2:  # a convolution of one pixel
                tensor = tensor[:, :, None, None]
        state[name] = tensor
    return state


def clip(folder: Path, component: str = "text_encoder") -> State:
    """A text encoder with the names of transformers, with the prefix `text_model.` of the published files."""
    state = {}
    for key, tensor in tiny.tensors(folder, component).items():
        plain = key.removeprefix("text_model.")
        state[plain if plain.startswith("text_projection") else f"text_model.{plain}"] = tensor
    return state


def open_clip(folder: Path, component: str = "text_encoder_2") -> State:
    """A text encoder with the names of open_clip, which stacks q, k and v."""
    heads = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    ours = clip(folder, component)
    state = {"text_projection": ours.pop("text_projection.weight").T.contiguous()}
    for key, tensor in ours.items():
        if key in heads:
            state[heads[key]] = tensor
            continue
        name = key.replace("text_model.encoder.layers.", "transformer.resblocks.")
        for mine, theirs in (
            ("layer_norm1", "ln_1"),
            ("layer_norm2", "ln_2"),
            (".fc1.", ".c_fc."),
            (".fc2.", ".c_proj."),
            ("self_attn", "attn"),
        ):
            name = name.replace(mine, theirs)
        if ".q_proj." in name:
            kind = name.rpartition(".")[2]
            stacked = torch.cat([ours[key.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            state[name.partition(".q_proj.")[0] + f".in_proj_{kind}"] = stacked
        elif ".k_proj." not in name and ".v_proj." not in name:
            state[name] = tensor
    return state


def _swapped(tensor: torch.Tensor) -> torch.Tensor:
    """Scale and shift in the other order, as the original code has them."""
    scale, shift = tensor.chunk(2)
    return torch.cat([shift, scale])


def mmdit(folder: Path) -> State:
    """The transformer of an SD 3 folder with the keys of the original code."""
    ours = tiny.tensors(folder, "transformer")
    heads = {
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "context_embedder": "context_embedder",
        "proj_out": "final_layer.linear",
    }
    state = {"pos_embed": ours["pos_embed.pos_embed"]}
    last = max(int(key.split(".")[1]) for key in ours if key.startswith("transformer_blocks."))
    for kind in ("weight", "bias"):
        state |= {f"{theirs}.{kind}": ours[f"{name}.{kind}"] for name, theirs in heads.items()}
        state[f"final_layer.adaLN_modulation.1.{kind}"] = _swapped(ours[f"norm_out.linear.{kind}"])
        for i in range(last + 1):
            block, theirs = f"transformer_blocks.{i}", f"joint_blocks.{i}"
            for side, q, out, norm, feed in (
                ("x_block", "to_{}", "to_out.0", "norm1", "ff"),
                ("context_block", "add_{}_proj", "to_add_out", "norm1_context", "ff_context"),
            ):
                stacked = [ours[f"{block}.attn.{q.format(part)}.{kind}"] for part in "qkv"]
                state[f"{theirs}.{side}.attn.qkv.{kind}"] = torch.cat(stacked)
                modulation = ours[f"{block}.{norm}.linear.{kind}"]
                ends = side == "context_block" and i == last
                state[f"{theirs}.{side}.adaLN_modulation.1.{kind}"] = (
                    _swapped(modulation) if ends else modulation
                )
                if ends:
                    continue
                state[f"{theirs}.{side}.attn.proj.{kind}"] = ours[f"{block}.attn.{out}.{kind}"]
                state[f"{theirs}.{side}.mlp.fc1.{kind}"] = ours[f"{block}.{feed}.net.0.proj.{kind}"]
                state[f"{theirs}.{side}.mlp.fc2.{kind}"] = ours[f"{block}.{feed}.net.2.{kind}"]
    return state


def _under(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def whole(kind: str, folder: Path) -> State:
    """The complete checkpoint of a folder of `tiny`: sd15 or sdxl. As published, it has buffers that no component has."""
    state = {"betas": torch.ones(1000)}
    state |= _under("model.diffusion_model.", unet(folder)) | _under("first_stage_model.", vae(folder))
    if kind == "sd15":
        return state | _under("cond_stage_model.transformer.", clip(folder))
    return (
        state
        | _under("conditioner.embedders.0.transformer.", clip(folder))
        | _under("conditioner.embedders.1.model.", open_clip(folder))
    )


def write(state: State, file: Path) -> Path:
    save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, file)
    return file


def configs_only(folder: Path, to: Path, components: tuple[str, ...]) -> Path:
    """A copy of a folder in which `components` have no weights."""
    shutil.copytree(folder, to)
    for component in components:
        for file in (to / component).glob("*.safetensors"):
            file.unlink()
    return to


def gguf(state: State, file: Path, kind: str = "F16") -> Path:
    """A file of the package gguf. Matrices whose rows hold whole blocks are of `kind`, the others float32."""
    from gguf import GGUFWriter
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import quantize

    wanted = GGMLQuantizationType[kind]
    writer = GGUFWriter(file, "sd3")
    for key, tensor in state.items():
        if tensor.ndim == 2 and tensor.shape[1] % GGML_QUANT_SIZES[wanted][0] == 0:
            writer.add_tensor(key, quantize(tensor.float().numpy(), wanted), raw_dtype=wanted)
        else:
            writer.add_tensor(key, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def same_weights(ours: Path, theirs: Path, components: tuple[str, ...]) -> bool:
    """Whether the components of two folders have the same weights, bit for bit."""
    return all(tiny.equal(tiny.tensors(ours, name), tiny.tensors(theirs, name)) for name in components)
