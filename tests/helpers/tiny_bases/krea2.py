"""Krea 2, undistilled and distilled."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline, Krea2Transformer2DModel
from parts import contrast, qwen3_vl, qwen_tokenizer
from transformers import Qwen3VLModel

from tiny_bases import TinyBase
from tiny_bases.qwen_image import one_frame

WIDTH = 8


def make(distilled: bool = False) -> Any:
    tokenizer = qwen_tokenizer(describe=True)
    network = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        timestep_embed_dim=8,
        text_hidden_dim=WIDTH,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
    )
    contrast(network.final_layer.linear, 4)
    for layer in (
        network.txt_in.linear_2,
        network.transformer_blocks[0].attn.to_out[0],
        network.time_mod_proj,
    ):
        contrast(layer, 5)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, max_image_seq_len=6400
    )
    return Krea2Pipeline(
        scheduler,
        one_frame(),
        Qwen3VLModel(qwen3_vl(len(tokenizer), WIDTH, layers=2)).eval(),
        tokenizer,
        network.eval(),
        text_encoder_select_layers=(0, 1, 2),
        is_distilled=distilled,
    )


LORA = ("to_q", "to_k", "to_v", "to_out.0", "ff.up")
BASES = [
    TinyBase("krea2", make, unguided=0.0, lora=LORA),
    TinyBase("krea2-turbo", lambda: make(distilled=True), scale=None, unguided=0.0, lora=LORA, variant=True),
]
