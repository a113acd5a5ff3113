"""Lumina 2: a transformer that predicts x - e and counts time from noise to image, with Gemma 2 for text."""

from __future__ import annotations

from typing import Any

import torch

from difflab.models.text_to_image.architecture import Architecture, Texts, falling, linear_shift


class Lumina2(Architecture):
    """Diffusers' training script draws noise levels 1 - s for the levels s of the scheduler's list.

    difflab draws s itself, as in sampling. The two densities are equal if the scheduler has shift 1.
    """

    title = "Lumina 2"
    pipelines = ("Lumina2Pipeline",)
    backbone = "Lumina2Transformer2DModel"
    published = {"Lumina-Image 2.0": {"cap_feat_dim": 2304}}  # the width of Gemma 2 2B, its text encoder
    statistics = ("scaling_factor", "shift_factor")

    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        states, mask, *_ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, device=device)
        return {"states": states, "mask": mask.bool()}

    def null_text(self, pipe: Any, device: Any) -> Texts:
        """The empty prompt without the system prompt that the pipeline puts before prompts."""
        *_, states, mask = pipe.encode_prompt([""], device=device)
        return {"states": states, "mask": mask.bool()}

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        if x.is_meta:  # the network reads lengths from the mask, which has no numbers on the meta device
            return torch.empty_like(x)
        return -net(
            hidden_states=x,
            timestep=1 - t.expand(len(x)) / 1000,
            encoder_hidden_states=texts["states"],
            encoder_attention_mask=texts["mask"],
            return_dict=False,
        )[0]

    def combine(self, unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
        """Each row of pixels gets the norm of the conditional prediction, as in the pipeline."""
        guided = super().combine(unconditional, conditional, scale)
        return guided * (conditional.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def schedule(self, scheduler: dict[str, Any], steps: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        """The pipeline computes the shift from the number of channels, whatever the size of the image."""
        return {"sigmas": falling(steps), "mu": linear_shift(scheduler, shape[0])}
