"""Text-to-image models that are trained by denoising diffusion in latent space: Stable Diffusion 1.x to XL.

Source: Rombach et al. 2112.10752.
"""

from __future__ import annotations

from typing import Any

from diffusers import DDPMScheduler

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.models.base_settings import scheduler_settings, training_process
from difflab.models.latent import Latent
from difflab.models.schedulers import scheduler_of


class StableDiffusion(Latent):
    """Family ``stable-diffusion``. It keeps the prediction type and the noise schedule of the base."""

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

    def scheduler(self, sampling: Sample, device: Any = "cpu") -> Any:
        return scheduler_of(
            sampling, self.noise, device, {"clip_sample": False} | scheduler_settings(self.base)
        )
