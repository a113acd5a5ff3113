"""Flux.2 dev and klein: a transformer on patches of 2 x 2 latent pixels, which batch norm normalises."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from difflab.models.text_to_image.architecture import (
    Architecture,
    Guidance,
    Texts,
    falling,
    stored_weight,
)


class Flux2(Architecture):
    title = "Flux.2 dev"
    pipelines = ("Flux2Pipeline",)
    backbone = "Flux2Transformer2DModel"
    autoencoder = "AutoencoderKLFlux2"
    statistics = ()
    posterior = "mode"
    patch = 2
    guidances: ClassVar[tuple[Guidance, ...]] = ("embedded", "none")
    published = {"FLUX.2 dev": {}}  # scripts/convert_flux2_to_diffusers.py

    @property
    def guidance(self) -> Guidance:
        return "embedded" if self.network_config.get("guidance_embeds", True) else "none"

    # ------------------------------------------------------------------------------------------- latents
    def drawn(self, height: int, width: int) -> tuple[int, int, int]:
        channels, h, w = super().drawn(height, width)
        return channels * self.patch**2, h // self.patch, w // self.patch

    @cached_property
    def batch_norm(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the patches, from the autoencoder's weights: each [1, C, 1, 1]."""
        mean, variance = (
            stored_weight(self.path / "vae", f"bn.running_{name}").float().view(1, -1, 1, 1)
            for name in ("mean", "var")
        )
        return mean, (variance + self.vae_config.get("batch_norm_eps", 1e-4)).sqrt()

    def normalise(self, z: torch.Tensor) -> torch.Tensor:
        mean, std = (statistic.to(z.device, z.dtype) for statistic in self.batch_norm)
        return (pixel_unshuffle(z, self.patch) - mean) / std

    def denormalise(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = (statistic.to(x.device, x.dtype) for statistic in self.batch_norm)
        return pixel_shuffle(x * std + mean, self.patch)

    # ------------------------------------------------------------------------------ texts, network, schedule
    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        states, _ = pipe.encode_prompt(prompts, device=device)
        return {"states": states}

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        n, _, h, w = x.shape
        states, scale = texts["states"], None
        if self.guidance == "embedded":
            scale = torch.full((n,), guidance, device=x.device)
        out = net(
            hidden_states=x.flatten(2).transpose(1, 2),
            timestep=t.expand(n) / 1000,
            guidance=scale,
            encoder_hidden_states=states,
            txt_ids=positions(n, x.device, 1, 1, 1, states.shape[1]),
            img_ids=positions(n, x.device, 1, h, w, 1),
            return_dict=False,
        )[0]
        return out.transpose(1, 2).unflatten(2, (h, w))

    def tokens(self, shape: tuple[int, int, int]) -> int:
        return shape[1] * shape[2]

    def schedule(self, scheduler: dict[str, Any], steps: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        return {"sigmas": falling(steps), "mu": empirical_shift(self.tokens(shape), steps)}


class Flux2Klein(Flux2):
    """A smaller network without embedded guidance, with another text encoder."""

    title = "Flux.2 klein"
    pipelines = ("Flux2KleinPipeline",)
    flags = ("is_distilled",)
    guidances = ("classifier-free", "none")
    published = {  # scripts/convert_flux2_to_diffusers.py
        "FLUX.2 klein 4B": {
            "num_layers": 5,
            "num_single_layers": 20,
            "num_attention_heads": 24,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
        "FLUX.2 klein 9B": {
            "num_single_layers": 24,
            "num_attention_heads": 32,
            "joint_attention_dim": 12288,
            "guidance_embeds": False,
        },
    }

    @property
    def guidance(self) -> Guidance:
        return "none" if self.index.get("is_distilled") else "classifier-free"


def positions(n: int, device: Any, *sides: int) -> torch.Tensor:
    """The positions of the tokens of a grid with these sides, for n images: [n, tokens, len(sides)]."""
    ids = torch.cartesian_prod(*(torch.arange(side, device=device) for side in sides))
    return ids.expand(n, -1, -1)


def empirical_shift(tokens: int, steps: int) -> float:
    """The shift mu of the noise levels, fitted by the authors (``compute_empirical_mu`` of diffusers)."""
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    slope = (at_200 - at_10) / 190
    return slope * steps + at_200 - 200 * slope
