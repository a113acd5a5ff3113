"""Stable Diffusion 1.x, 2.x and XL: a UNet on latents with cross-attention to text (2112.10752)."""

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
    """Family ``stable-diffusion``. Prediction type and noise schedule are those of the base."""

    pipelines = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
    component = "unet"

    def training_noise(self) -> Any:
        noise = training_process(self.base, DDPMScheduler)
        if noise.config.prediction_type not in ("epsilon", "v_prediction"):
            file = self.base.path / "scheduler" / "scheduler_config.json"
            raise ConfigError(
                f"{file}: the base predicts '{noise.config.prediction_type}'; epsilon and v_prediction are "
                "known. "
                "Where that is a mistake, set prediction_type in a copy of the folder"
            )
        if self.spec.train_text_encoder and len(self.base.text_encoders()) > 1:
            raise ConfigError(
                "model.train_text_encoder is for bases with one text encoder (SD 1.x, 2.x); set it to false"
            )
        return noise

    @classmethod
    def backbone_class(cls) -> Any:
        return UNet2DConditionModel

    def scheduler(self, how: Sample, device: Any = "cpu") -> Any:
        return scheduler_of(how, self.noise, device, {"clip_sample": False} | scheduler_settings(self.base))

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor | None
    ) -> torch.Tensor:
        kind = self.backbone.dtype if not self.backbone.training else x.dtype
        x = x.to(kind)
        given = self.texts(conditions, len(x), x)
        if "ids" in given:
            return net(x, t, given["ids"])
        extra = {}
        if "pooled" in given:  # SDXL is told the size of the image and how it was cropped
            side = self.shape.record[0]
            sizes = torch.tensor([side, side, 0, 0, side, side], device=x.device, dtype=x.dtype).expand(
                len(x), -1
            )
            extra["added_cond_kwargs"] = {"text_embeds": given["pooled"], "time_ids": sizes}
        return net(x, t, encoder_hidden_states=given["states"], **extra).sample
