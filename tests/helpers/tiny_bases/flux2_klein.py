"""Flux.2 klein, undistilled and distilled."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from parts import contrast, kl, qwen_tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from tiny_bases import TinyBase

WIDTH = 8


def make(distilled: bool = False) -> Any:
    tokenizer = qwen_tokenizer()
    text_encoder = Qwen3ForCausalLM(
        Qwen3Config(
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=27,  # the pipeline reads the states of layers 9, 18 and 27
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=4,
            vocab_size=len(tokenizer),
            max_position_embeddings=512,
            initializer_range=0.3,
        )
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
        guidance_embeds=False,
    )
    contrast(network.proj_out, 4)
    autoencoder = kl(4, kind=AutoencoderKLFlux2)
    with torch.no_grad():
        autoencoder.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 16))
        autoencoder.bn.running_var.copy_(torch.linspace(0.5, 2, 16))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return Flux2KleinPipeline(
        scheduler, autoencoder, text_encoder.eval(), tokenizer, network.eval(), is_distilled=distilled
    )


BASES = [
    TinyBase("flux2-klein", make),
    TinyBase("flux2-klein-distilled", lambda: make(distilled=True), scale=None, variant=True),
]
