"""Lumina 2. Its pipeline divides the side of images by 8 for every autoencoder."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
from parts import contrast, gemma, kl

from tiny_bases import TinyBase

WIDTH = 8


def make() -> Any:
    text_encoder, tokenizer = gemma(WIDTH, layers=2)  # the pipeline reads the states before the last layer
    network = Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(8, 8, 8),
        axes_lens=(300, 16, 16),
        cap_feat_dim=WIDTH,
    )
    contrast(network.norm_out.linear_2, 4)
    autoencoder = kl(4, levels=4, scaling_factor=0.3611, shift_factor=0.1159)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=6.0, use_dynamic_shifting=True)
    return Lumina2Pipeline(network.eval(), scheduler, autoencoder, text_encoder, tokenizer)


BASES = [TinyBase("lumina2", make, side=32)]
