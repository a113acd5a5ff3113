"""Flux.2 dev: guidance is an input, prompts go through a chat template and a Mistral."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from parts import contrast, kl, pixtral_processor
from transformers import Mistral3Config, Mistral3ForConditionalGeneration

from tiny_bases import TinyBase

WIDTH = 8


def make() -> Any:
    processor = pixtral_processor()
    text = {
        "model_type": "mistral",
        "vocab_size": len(processor.tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "max_position_embeddings": 512,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "num_hidden_layers": 30,  # the pipeline reads the states of layers 10, 20 and 30
        "sliding_window": None,
        "initializer_range": 0.3,
    }
    vision = {
        "model_type": "pixtral",
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": WIDTH,
        "image_size": 28,
        "patch_size": 14,
    }
    text_encoder = Mistral3ForConditionalGeneration(
        Mistral3Config(text_config=text, vision_config=vision, image_token_index=1)
    )
    network = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
    )
    contrast(network.proj_out, 4)
    contrast(network.transformer_blocks[0].attn.add_v_proj, 16)  # prompts are a small part of the 512 tokens
    autoencoder = kl(4, kind=AutoencoderKLFlux2)
    with torch.no_grad():
        autoencoder.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 16))
        autoencoder.bn.running_var.copy_(torch.linspace(0.5, 2, 16))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return Flux2Pipeline(scheduler, autoencoder, text_encoder.eval(), processor, network.eval())


BASES = [TinyBase("flux2-dev", make)]
