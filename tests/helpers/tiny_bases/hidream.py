"""HiDream. Its pipeline rescales every size to one area, which is that of the tests here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
from diffusers import FlowMatchEulerDiscreteScheduler, HiDreamImagePipeline, HiDreamImageTransformer2DModel
from parts import contrast, kl, qwen_tokenizer, t5
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, LlamaConfig, LlamaForCausalLM

from tiny_bases import TinyBase

WIDTH = 16


class OneArea(TinyBase):
    def pipeline(self, folder: Path) -> Any:
        pipe = super().pipeline(folder)
        pipe.default_sample_size = self.side // pipe.vae_scale_factor
        return pipe


def clip(tokens: Any) -> Any:
    """A CLIP for prompts of 128 tokens."""
    config = tiny.text_encoder(tokens, True).config.to_dict() | {"max_position_embeddings": 128}
    return CLIPTextModelWithProjection(CLIPTextConfig(**config)).eval()


def make() -> Any:
    network = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=2 * tiny.WIDTH,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(16, 16),
        llama_layers=[0, 1],
    )
    contrast(network.final_layer.linear, 4)
    tokens, (text_encoder_3, tokenizer_3), tokenizer_4 = tiny.tokenizer(), t5(WIDTH), qwen_tokenizer()
    llama = LlamaConfig(
        vocab_size=len(tokenizer_4),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.5,
    )
    return HiDreamImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        kl(4, scaling_factor=0.3611, shift_factor=0.1159),
        clip(tokens),
        tokens,
        clip(tokens),
        tokens,
        text_encoder_3,
        tokenizer_3,
        LlamaForCausalLM(llama).eval(),
        tokenizer_4,
        network.eval(),
    )


BASES = [OneArea("hidream", make, lora=("to_q", "to_k", "to_v", "to_out"))]
