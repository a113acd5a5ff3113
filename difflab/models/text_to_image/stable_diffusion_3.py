"""Stable Diffusion 3 and 3.5: a transformer with joint attention to text (Esser et al. 2403.03206)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from difflab.models.text_to_image.architecture import Architecture, Texts


class StableDiffusion3(Architecture):
    title = "Stable Diffusion 3, 3.5"
    pipelines = ("StableDiffusion3Pipeline",)
    backbone = "SD3Transformer2DModel"
    statistics = ("scaling_factor", "shift_factor")
    preconditioned = True
    published = {
        "Stable Diffusion 3 medium": {
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 192,
        }
    }

    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        if pipe.transformer is None:  # encode_prompt reads a width from the transformer's config
            pipe.transformer = SimpleNamespace(config=SimpleNamespace(**self.network_config))
        states, _, pooled, _ = pipe.encode_prompt(
            prompts, prompts, prompts, device=device, do_classifier_free_guidance=False
        )
        return {"states": states, "pooled": pooled}

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        return net(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=texts["states"],
            pooled_projections=texts["pooled"],
            return_dict=False,
        )[0]
