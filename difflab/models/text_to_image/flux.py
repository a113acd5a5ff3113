"""Flux.1 dev and schnell: a transformer on patches of 2 x 2 latent pixels. Guidance is an input of dev."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from difflab.models.text_to_image.architecture import Architecture, Guidance, Texts, falling, linear_shift
from difflab.models.text_to_image.flux2 import positions


class Flux(Architecture):
    title = "Flux.1 dev, schnell"
    pipelines = ("FluxPipeline",)
    backbone = "FluxTransformer2DModel"
    statistics = ("scaling_factor", "shift_factor")
    patch = 2
    guidances: ClassVar[tuple[Guidance, ...]] = ("embedded", "none")
    published = {  # scripts/convert_flux_to_diffusers.py
        "FLUX.1 dev": {"guidance_embeds": True},
        "FLUX.1 schnell": {},
    }

    @property
    def guidance(self) -> Guidance:
        return "embedded" if self.network_config.get("guidance_embeds") else "none"

    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        states, pooled, _ = pipe.encode_prompt(prompts, device=device)
        return {"states": states, "pooled": pooled}

    def further_inputs(self, x: torch.Tensor, texts: Texts, guidance: float) -> dict[str, Any]:
        """The keyword arguments of the network besides latents, time, text embeddings and positions."""
        scale = None
        if self.guidance == "embedded":
            scale = torch.full((len(x),), guidance, device=x.device)
        return {"pooled_projections": texts["pooled"], "guidance": scale}

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        h, w = (side // self.patch for side in x.shape[2:])
        states = texts["states"]
        out = net(
            hidden_states=pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2),
            timestep=t.expand(len(x)) / 1000,
            encoder_hidden_states=states,
            txt_ids=torch.zeros(states.shape[1], 3, device=x.device),
            img_ids=positions(1, x.device, 1, h, w)[0],
            return_dict=False,
            **self.further_inputs(x, texts, guidance),
        )[0]
        return pixel_shuffle(out.transpose(1, 2).unflatten(2, (h, w)), self.patch)

    def schedule(self, scheduler: dict[str, Any], steps: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        return {"sigmas": falling(steps), "mu": linear_shift(scheduler, self.tokens(shape))}
