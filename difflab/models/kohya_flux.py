"""LoRA layers of Flux.1, Chroma and Flux.2 with the names of the original code, as kohya's layout has them.

That code computes query, key and value of a block in one layer; a single block of Flux.1 computes its MLP in
the same layer. Their LoRA layers become one: A is stacked, B is block-diagonal, so the product is the same.
The rank grows by the number of layers, and alpha with it. Names: sd-scripts networks/lora_flux.py, as
diffusers 0.42.1 reads them (loaders/lora_conversion_utils.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import torch

from difflab.core.errors import ConfigError

BLOCKS = {"transformer_blocks": "double_blocks", "single_transformer_blocks": "single_blocks"}
Pair = tuple[torch.Tensor, torch.Tensor]
"""A [r, D_in] and B [D_out, r] of one LoRA layer."""


@dataclass(frozen=True)
class Layout:
    """The layers inside a block.

    Attributes:
        names: the name in the original code by block and name in diffusers.
        fused: the layers that are one in the original code: by block and name there, their names in diffusers
            and their widths relative to the first.
    """

    names: dict[str, dict[str, str]]
    fused: dict[str, dict[str, dict[str, int]]]


def _attention(prefix: str, query: str, key: str, value: str) -> dict[str, dict[str, int]]:
    return {f"{prefix}_attn_qkv": {f"attn.{name}": 1 for name in (query, key, value)}}


DOUBLE = _attention("img", "to_q", "to_k", "to_v") | _attention(
    "txt", "add_q_proj", "add_k_proj", "add_v_proj"
)
OUTPUTS = {"attn.to_out.0": "img_attn_proj", "attn.to_add_out": "txt_attn_proj"}
FLUX = Layout(
    {
        "double_blocks": OUTPUTS
        | {"ff.net.0.proj": "img_mlp_0", "ff.net.2": "img_mlp_2", "norm1.linear": "img_mod_lin"}
        | {"ff_context.net.0.proj": "txt_mlp_0", "ff_context.net.2": "txt_mlp_2"}
        | {"norm1_context.linear": "txt_mod_lin"},
        "single_blocks": {"proj_out": "linear2", "norm.linear": "modulation_lin"},
    },
    {
        "double_blocks": DOUBLE,
        "single_blocks": {"linear1": {"attn.to_q": 1, "attn.to_k": 1, "attn.to_v": 1, "proj_mlp": 4}},
    },
)
FLUX2 = Layout(
    {
        "double_blocks": OUTPUTS
        | {"ff.linear_in": "img_mlp_0", "ff.linear_out": "img_mlp_2"}
        | {"ff_context.linear_in": "txt_mlp_0", "ff_context.linear_out": "txt_mlp_2"},
        "single_blocks": {"attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2"},
    },
    {"double_blocks": DOUBLE, "single_blocks": {}},
)
LAYOUTS = {"FluxPipeline": FLUX, "ChromaPipeline": FLUX, "Flux2Pipeline": FLUX2, "Flux2KleinPipeline": FLUX2}
"""The layout by the class of the pipeline."""


def original_layers(layers: dict[str, Pair], kind: str) -> dict[str, tuple[torch.Tensor, torch.Tensor, int]]:
    """A, B and the factor of the rank, by the name in the original code with underscores.

    Args:
        layers: A and B by the name of the layer in diffusers, all of one rank.
        kind: the class of the pipeline.

    Raises:
        ConfigError: the layout has no name for a layer.
    """
    layout = LAYOUTS[kind]
    made: dict[str, tuple[torch.Tensor, torch.Tensor, int]] = {}
    parts: dict[tuple[str, str], dict[str, Pair]] = defaultdict(dict)
    for name, (a, b) in layers.items():
        match = re.fullmatch(r"((?:single_)?transformer_blocks)\.(\d+)\.(.+)", name)
        block, inner = (BLOCKS[match[1]], match[3]) if match else ("", "")
        fused = [one for one, members in layout.fused.get(block, {}).items() if inner in members]
        if match and fused:
            parts[f"{block}_{match[2]}", fused[0]][inner] = a, b
        elif match and inner in layout.names.get(block, {}):
            made[f"{block}_{match[2]}_{layout.names[block][inner]}"] = a, b, 1
        else:
            raise ConfigError(f"the layer {name} has no name in kohya's layout; change model.lora_targets")
    for (block, name), pairs in parts.items():
        members = layout.fused[block.rpartition("_")[0]][name]
        made[f"{block}_{name}"] = *_fused(pairs, members), len(members)
    return made


def _fused(pairs: dict[str, Pair], members: dict[str, int]) -> Pair:
    """One LoRA layer that computes all `members`. A member without LoRA layers gets zeros."""
    inner, (a, b) = next(iter(pairs.items()))
    width = b.shape[0] // members[inner]
    parts = [
        pairs.get(name, (torch.zeros_like(a), b.new_zeros(width * times, b.shape[1])))
        for name, times in members.items()
    ]
    return torch.cat([one for one, _ in parts]), torch.block_diag(*(other for _, other in parts))
