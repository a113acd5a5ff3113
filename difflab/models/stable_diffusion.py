"""Stable Diffusion 1.x, 2.x and XL: a UNet on latents with cross-attention to text.

Source: Rombach et al. 2112.10752.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.models.base_settings import scheduler_settings, training_process
from difflab.models.latent import Latent
from difflab.models.schedulers import scheduler_of


class StableDiffusion(Latent):
    """Family ``stable-diffusion``. It keeps the prediction type and the noise schedule of the base."""

    pipelines = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
    component = "unet"

    def training_noise(self) -> Any:
        noise = training_process(self.base, DDPMScheduler)
        if noise.config.prediction_type not in ("epsilon", "v_prediction"):
            file = self.base.path / "scheduler" / "scheduler_config.json"
            raise ConfigError(
                f"{file}: the base predicts '{noise.config.prediction_type}', but difflab supports only "
                "epsilon and v_prediction. If the file is wrong, set prediction_type in a copy of the folder"
            )
        if self.spec.train_text_encoder and len(self.base.text_encoders()) > 1:
            raise ConfigError(
                "model.train_text_encoder needs a base with one text encoder (SD 1.x, 2.x); set it to false"
            )
        return noise

    @classmethod
    def backbone_class(cls) -> Any:
        return UNet2DConditionModel

    def scheduler(self, sampling: Sample, device: Any = "cpu") -> Any:
        return scheduler_of(
            sampling, self.noise, device, {"clip_sample": False} | scheduler_settings(self.base)
        )

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor | None
    ) -> torch.Tensor:
        if not self.backbone.training:
            x = x.to(self.backbone.dtype)
        texts = self.texts(conditions, len(x), x)
        if "ids" in texts:
            return net(x, t, texts["ids"])
        extra = {}
        if "pooled" in texts:  # SDXL has the size of the image and its crop as additional inputs
            size = self.shape.size
            sizes = torch.tensor([*size, 0, 0, *size], device=x.device, dtype=x.dtype).expand(len(x), -1)
            extra["added_cond_kwargs"] = {"text_embeds": texts["pooled"], "time_ids": sizes}
        return net(x, t, encoder_hidden_states=texts["states"], **extra).sample
