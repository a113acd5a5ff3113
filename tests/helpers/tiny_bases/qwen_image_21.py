"""Qwen-Image 2.1."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from parts import contrast, qwen3_vl, qwen_vl_processor
from transformers import Qwen3VLForConditionalGeneration

from tiny_bases import TinyBase

WIDTH = 8


def text_encoder(entries: int, width: int = WIDTH) -> Any:
    return Qwen3VLForConditionalGeneration(qwen3_vl(entries, width)).eval()


def autoencoder() -> Any:
    made = AutoencoderKLQwenImage21(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[-0.3, 0.2, 0.1, 0.0],
        latents_std=[0.8, 1.2, 1.0, 0.9],
    )
    contrast(made.decoder.conv_out)
    return made.eval()


def make() -> Any:
    processor = qwen_vl_processor()
    network = QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
    )
    contrast(network.proj_out, 4)
    contrast(network.modulation[1], 4)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192
    )
    return QwenImage21Pipeline(
        scheduler, autoencoder(), text_encoder(len(processor.tokenizer)), processor, network.eval()
    )


def guidance(scale: float) -> dict[str, Any]:
    return {"true_cfg_scale": scale, "negative_prompt": ""} if scale > 1 else {"true_cfg_scale": 1.0}


BASES = [TinyBase("qwen-image-2.1", make, side=32, guidance=guidance, one_by_one=True)]
