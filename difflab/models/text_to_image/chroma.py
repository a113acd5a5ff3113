"""Chroma: a Flux.1 without pooled text and without embedded guidance. Attention gets a mask of prompts."""

from __future__ import annotations

from typing import Any

import torch

from difflab.models.text_to_image.architecture import Guidance, Texts
from difflab.models.text_to_image.flux import Flux


class Chroma(Flux):
    title = "Chroma"
    pipelines = ("ChromaPipeline",)
    backbone = "ChromaTransformer2DModel"
    guidances = ("classifier-free",)
    published = {"Chroma1-HD": {}}

    @property
    def guidance(self) -> Guidance:
        return "classifier-free"

    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        states, _, mask, *_ = pipe.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
        return {"states": states, "mask": mask.bool()}

    def further_inputs(self, x: torch.Tensor, texts: Texts, guidance: float) -> dict[str, Any]:
        tokens = self.tokens((self.latent_channels, *x.shape[2:]))
        # As in the pipeline the mask is a float tensor, which attention adds to its logits.
        return {"attention_mask": torch.cat([texts["mask"].to(x.dtype), x.new_ones(len(x), tokens)], 1)}
