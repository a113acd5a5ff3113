"""Sana: linear attention on latents whose sides are 1/32 of those of the image (Xie et al. 2410.10629)."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch

from difflab.core.errors import ConfigError
from difflab.models.text_to_image.architecture import Architecture, Texts

SIDES = 32
"""The pipeline takes images whose sides are multiples of this number."""


class Sana(Architecture):
    """Captions follow the long instruction that is the pipeline's default; the null condition has none.

    Images have the size that the data has. (By default the pipeline paints the nearest of its own sizes.)
    """

    title = "Sana"
    pipelines = ("SanaPipeline",)
    backbone = "SanaTransformer2DModel"
    autoencoder = "AutoencoderDC"
    posterior = "mode"
    published = {  # scripts/convert_sana_to_diffusers.py
        "Sana 0.6B": {
            "num_attention_heads": 36,
            "num_layers": 28,
            "num_cross_attention_heads": 16,
            "cross_attention_head_dim": 72,
            "cross_attention_dim": 1152,
        },
        "Sana 1.6B": {},
        "Sana 1.5 4.8B": {"num_layers": 60, "qk_norm": "rms_norm_across_heads"},
    }

    def check(self) -> None:
        super().check()
        if self.network_config.get("guidance_embeds"):
            raise ConfigError(
                f"{self.path / self.component / 'config.json'}: guidance_embeds is true, which "
                f"{self.pipeline} cannot run (Sana-Sprint has another pipeline); use another base"
            )

    @property
    def latent_channels(self) -> int:
        return self.vae_config.get("latent_channels", 32)

    @property
    def downsampling(self) -> int:
        return 2 ** (len(self.vae_config["encoder_block_out_channels"]) - 1)

    @property
    def multiple(self) -> int:
        return math.lcm(SIDES, super().multiple)

    def encode(self, vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = vae.encode(pixels).latent
        return z, torch.zeros_like(z)

    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        defaults = inspect.signature(type(pipe).__call__).parameters
        return _encoded(pipe, prompts, device, defaults["complex_human_instruction"].default)

    def null_text(self, pipe: Any, device: Any) -> Texts:
        return _encoded(pipe, [""], device, None)

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        out = net(
            x,
            encoder_hidden_states=texts["states"],
            encoder_attention_mask=texts["mask"],
            timestep=t.expand(len(x)) * self.network_config.get("timestep_scale", 1.0),
            return_dict=False,
        )[0]
        return out[:, : x.shape[1]]  # a learned variance may follow


def _encoded(pipe: Any, prompts: list[str], device: Any, instruction: list[str] | None) -> Texts:
    states, mask, _, _ = pipe.encode_prompt(
        prompts, device=device, do_classifier_free_guidance=False, complex_human_instruction=instruction
    )
    return {"states": states, "mask": mask.bool()}
