"""Qwen-Image."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from parts import contrast, qwen_tokenizer
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tiny_bases import TinyBase

WIDTH = 8


def text_encoder(entries: int) -> Any:
    text = {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "vocab_size": entries,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        "initializer_range": 1.0,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    vision = {
        "depth": 1,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_heads": 1,
        "out_hidden_size": WIDTH,
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()


def one_frame() -> Any:
    """A small autoencoder of Qwen-Image whose pictures have contrast."""
    made = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[-0.3, 0.2, 0.1, 0.0],
        latents_std=[0.8, 1.2, 1.0, 0.9],
    )
    contrast(made.decoder.conv_out)
    return made.eval()


def make() -> Any:
    tokenizer = qwen_tokenizer(describe=True)
    network = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
    )
    contrast(network.proj_out, 4)
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, use_dynamic_shifting=True
    )
    return QwenImagePipeline(scheduler, one_frame(), text_encoder(len(tokenizer)), tokenizer, network.eval())


BASES = [
    TinyBase("qwen-image", make, guidance=lambda scale: {"true_cfg_scale": scale, "negative_prompt": ""})
]
