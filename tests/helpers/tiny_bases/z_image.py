"""Z-Image."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from parts import contrast, kl, qwen_tokenizer
from transformers import Qwen3Config, Qwen3Model

from tiny_bases import TinyBase

WIDTH = 8


def make() -> Any:
    tokenizer = qwen_tokenizer()
    text_encoder = Qwen3Model(
        Qwen3Config(
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=2,  # the pipeline reads the states before the last layer
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=4,
            vocab_size=len(tokenizer),
            max_position_embeddings=512,
            initializer_range=0.3,
        )
    )
    network = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 32, 32],
    )
    with torch.no_grad():
        network.x_pad_token.normal_()
        network.cap_pad_token.normal_()
    contrast(network.all_final_layer["2-1"].linear, 4)
    autoencoder = kl(4, scaling_factor=0.3611, shift_factor=0.1159)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return ZImagePipeline(scheduler, autoencoder, text_encoder.eval(), tokenizer, network.eval())


BASES = [TinyBase("z-image", make, unguided=0.0)]
