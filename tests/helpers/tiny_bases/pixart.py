"""PixArt-Sigma, and PixArt-Alpha for 512 and 1024 pixels: the latter has the size of images as an input."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)
from parts import contrast, kl, t5

from tiny_bases import TinyBase


def make(kind: Any = PixArtSigmaPipeline, sample_size: int = 8) -> Any:
    network = PixArtTransformer2DModel(
        sample_size=sample_size,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=16,
        cross_attention_dim=24,
        interpolation_scale=1,
    )
    contrast(network.proj_out, 4)
    text_encoder, tokenizer = t5()
    return kind(
        tokenizer,
        text_encoder,
        kl(4, scaling_factor=0.13025),
        network.eval(),
        DPMSolverMultistepScheduler(),
    )


PLAIN = {
    "family": "stable-diffusion",
    "scheduler": "DPMSolverMultistepScheduler",
    # No list of sizes, and no cleaning of captions, which the pipeline leaves out where packages are missing.
    "call": {"use_resolution_binning": False, "clean_caption": False},
    "lora": None,
}
BASES = [
    TinyBase("pixart-sigma", make, variant=True, **PLAIN),
    TinyBase("pixart-alpha-1024", lambda: make(PixArtAlphaPipeline, 128), **PLAIN),
    TinyBase("pixart-alpha-512", lambda: make(PixArtAlphaPipeline, 64), variant=True, **PLAIN),
]
