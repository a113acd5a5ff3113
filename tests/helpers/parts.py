"""Tokenizers, text encoders and autoencoders of the tiny bases. Nothing is learned and nothing comes from a hub."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2TokenizerFast

CAPTIONS = ("noto red apple", "noto seal", "openmoji man student playing", "noto fire")
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def qwen_tokenizer() -> Any:
    """Byte-level BPE without merges, with the chat template and the marks of Qwen."""
    entries = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = Qwen2TokenizerFast(
        vocab={entry: i for i, entry in enumerate(entries)},
        merges=[],
        unk_token=None,
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    made.chat_template = CHAT
    return made


def kl(latents: int, levels: int = 2, kind: Any = AutoencoderKL, **more: Any) -> Any:
    """A small AutoencoderKL (or a class with its arguments) whose pictures have contrast."""
    made = kind(
        block_out_channels=(4, 8)[:levels],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=latents,
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=16,
        **more,
    )
    contrast(made.decoder.conv_out)
    return made.eval()


@torch.no_grad()
def contrast(layer: Any, factor: float = 3.0) -> None:
    """Multiply the weights of a layer."""
    layer.weight *= factor
