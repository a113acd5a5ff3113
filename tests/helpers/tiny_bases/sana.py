"""Sana, with the two schedulers that its folders come with."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
)
from parts import contrast, gemma

from tiny_bases import TinyBase

WIDTH = 8


def deep_compression() -> Any:
    """A small AutoencoderDC whose pictures have contrast."""
    made = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(4, 8, 8),
        decoder_block_out_channels=(4, 8, 8),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )
    contrast(made.decoder.conv_out)
    return made.eval()


def make(scheduler: Any = None) -> Any:
    text_encoder, tokenizer = gemma(WIDTH)
    network = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=8,
    )
    contrast(network.proj_out, 4)
    scheduler = scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0)
    return SanaPipeline(tokenizer, text_encoder, deep_compression(), network.eval(), scheduler)


def solver() -> Any:
    """As most published folders: the solver of the authors."""
    flow = {"flow_shift": 3.0, "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    return make(DPMSolverMultistepScheduler(**flow))


BASES = [
    TinyBase("sana", make, side=32, call={"use_resolution_binning": False}, lora=("to_q", "to_k", "to_v")),
    TinyBase(
        "sana-solver",
        solver,
        side=32,
        scheduler="DPMSolverMultistepScheduler",
        call={"use_resolution_binning": False},
        lora=("to_q", "to_k", "to_v"),
        variant=True,
    ),
]
