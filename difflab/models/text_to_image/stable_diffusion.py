"""Stable Diffusion 1.x, 2.x and XL: a UNet with cross-attention to CLIP embeddings.

Sources: Rombach et al. 2112.10752; Podell et al. 2307.01952.
"""

from __future__ import annotations

from typing import Any

import torch

from difflab.core.errors import ConfigError
from difflab.models.text_to_image.architecture import Architecture, Texts

# Settings of a UNet that has inputs besides noisy latents, a timestep and text.
INPUTS = {
    "time_cond_proj_dim": "an embedded guidance scale (a latent consistency model)",
    "class_embed_type": "class labels in addition to the text",
    "num_class_embeds": "class labels in addition to the text",
    "encoder_hid_dim_type": "image embeddings",
}
CHANNELS = {
    9: "an inpainting base",
    8: "an InstructPix2Pix base",
    7: "an upscaling base",
    5: "a depth-to-image base",
}


class StableDiffusion(Architecture):
    title = "Stable Diffusion 1.x, 2.x"
    pipelines = ("StableDiffusionPipeline",)
    backbone = "UNet2DConditionModel"
    component = "unet"
    family = "stable-diffusion"
    published = {"Stable Diffusion 1.5": {"cross_attention_dim": 768}}
    addition: str | None = None
    """The additional embedding of the UNet: its setting ``addition_embed_type``."""

    def check(self) -> None:
        config, file = self.network_config, self.path / self.component / "config.json"
        channels = config.get("in_channels", 4)
        if channels in CHANNELS and channels != self.latent_channels:
            raise ConfigError(
                f"{file}: in_channels is {channels} and the autoencoder's latents have "
                f"{self.latent_channels} channels: this is {CHANNELS[channels]}; use a text-to-image base"
            )
        super().check()
        for key, extra_input in INPUTS.items():
            if config.get(key) is not None:
                raise ConfigError(
                    f"{file}: {key} is {config[key]!r}: this network needs {extra_input}, which difflab does "
                    "not supply; use another base"
                )
        added = config.get("addition_embed_type")
        if added != self.addition:
            raise ConfigError(
                f"{file}: addition_embed_type is {added!r}, but {self.pipeline} needs {self.addition!r}; use "
                "another base"
            )

    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        states, _ = pipe.encode_prompt(
            prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"states": states}

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        return net(x, t, encoder_hidden_states=texts["states"]).sample


class StableDiffusionXL(StableDiffusion):
    """Two text encoders, and the image's size as an input."""

    title = "Stable Diffusion XL"
    pipelines = ("StableDiffusionXLPipeline",)
    statistics = ("scaling_factor", "latents_mean", "latents_std")
    flags = ("force_zeros_for_empty_prompt",)
    addition = "text_time"
    published = {
        "Stable Diffusion XL base 1.0": {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "attention_head_dim": [5, 10, 20],
            "block_out_channels": [320, 640, 1280],
            "cross_attention_dim": 2048,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "projection_class_embeddings_input_dim": 2816,
            "transformer_layers_per_block": [1, 2, 10],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "use_linear_projection": True,
        }
    }

    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        states, _, pooled, _ = pipe.encode_prompt(
            prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"states": states, "pooled": pooled}

    def null_text(self, pipe: Any, device: Any) -> Texts:
        texts = super().null_text(pipe, device)
        if not self.index.get("force_zeros_for_empty_prompt"):
            return texts
        return {name: torch.zeros_like(tensor) for name, tensor in texts.items()}

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        height, width = (self.downsampling * side for side in x.shape[2:])
        # original size, top left corner of the crop, size
        sizes = torch.tensor([height, width, 0, 0, height, width], device=x.device, dtype=x.dtype)
        added = {"text_embeds": texts["pooled"], "time_ids": sizes.expand(len(x), -1)}
        return net(x, t, encoder_hidden_states=texts["states"], added_cond_kwargs=added).sample
