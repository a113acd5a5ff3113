"""Flux.1: with embedded guidance (dev) and without (schnell). Chroma: with a mask and classifier-free guidance."""

from __future__ import annotations

from typing import Any

import tiny
from diffusers import (
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from parts import contrast, kl, t5

from tiny_bases import TinyBase

SHAPE = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "axes_dims_rope": (4, 4, 8),
}
DEV = {"shift": 3.0, "use_dynamic_shifting": True}


def autoencoder() -> Any:
    plain = {"use_quant_conv": False, "use_post_quant_conv": False}
    return kl(4, scaling_factor=0.3611, shift_factor=0.1159, **plain)


def flux(dev: bool = True) -> Any:
    network = FluxTransformer2DModel(**SHAPE, pooled_projection_dim=tiny.WIDTH, guidance_embeds=dev)
    contrast(network.proj_out, 4)
    tokens = tiny.tokenizer()
    text_encoder_2, tokenizer_2 = t5()
    return FluxPipeline(
        FlowMatchEulerDiscreteScheduler(**(DEV if dev else {})),
        autoencoder(),
        tiny.text_encoder(tokens),
        tokens,
        text_encoder_2,
        tokenizer_2,
        network.eval(),
    )


def chroma() -> Any:
    network = ChromaTransformer2DModel(
        **SHAPE, approximator_num_channels=16, approximator_hidden_dim=16, approximator_layers=1
    )
    contrast(network.proj_out, 4)
    text_encoder, tokenizer = t5()
    scheduler = FlowMatchEulerDiscreteScheduler(**DEV)
    return ChromaPipeline(scheduler, autoencoder(), text_encoder, tokenizer, network.eval())


BASES = [
    TinyBase("flux-dev", flux),
    TinyBase("flux-schnell", lambda: flux(dev=False), scale=None, variant=True),
    TinyBase("chroma", chroma),
]
