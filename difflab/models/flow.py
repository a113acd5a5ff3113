"""Stable Diffusion 3 and 3.5: a transformer on latents, trained by flow matching (2403.03206)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

from difflab.config import Sample, Train
from difflab.models.base_settings import scheduler_settings, training_process
from difflab.models.latent import Latent
from difflab.models.schedulers import scheduler_of


class Flow(Latent):
    """Family ``flow``.

    The path from image x to noise e is (1 - s) x + s e. The network predicts the velocity e - x of the path.
    """

    pipelines = ("StableDiffusion3Pipeline",)
    component = "transformer"

    def training_noise(self) -> Any:
        return training_process(self.base, FlowMatchEulerDiscreteScheduler)

    @classmethod
    def backbone_class(cls) -> Any:
        return SD3Transformer2DModel

    def scheduler(self, sampling: Sample, device: Any = "cpu") -> Any:
        return scheduler_of(sampling, self.noise, device, scheduler_settings(self.base))

    def timesteps(self, total: int, rng: torch.Generator) -> torch.Tensor:
        """Random positions in the scheduler's list of training times: int64 [total].

        They are logit-normal or uniform, as model.timestep_sampling says.
        """
        steps = self.noise.config.num_train_timesteps
        if self.spec.timestep_sampling == "logit_normal":
            u = torch.randn(total, generator=rng).sigmoid()
        else:
            u = torch.rand(total, generator=rng)
        return (u * steps).long().clamp(max=steps - 1)

    def noisy(self, levels: torch.Tensor) -> torch.Tensor:
        """See Denoiser. Here position 0 is the time with the most noise, so the order is reversed."""
        return self.noise.config.num_train_timesteps - 1 - super().noisy(levels)

    def error(
        self, net: Any, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor | None
    ) -> torch.Tensor:
        """Per-image mean squared error of the velocity: [b]."""
        sigma = self.noise.sigmas.to(x.device)[t][:, None, None, None]
        times = self.noise.timesteps.to(x.device)[t]
        velocity = self.predict(net, (1 - sigma) * x + sigma * noise, times, conditions).float()
        return (velocity - (noise - x)).square().flatten(1).mean(1)

    def loss(
        self,
        net: Any,
        x: torch.Tensor,
        noise: torch.Tensor,
        t: torch.Tensor,
        conditions: torch.Tensor | None,
        train: Train,
    ) -> torch.Tensor:
        """Per-image training loss: [b].

        With model.precondition_outputs the error is multiplied by s squared.
        """
        error = self.error(net, x, noise, t, conditions)
        if self.spec.precondition_outputs:
            error = error * self.noise.sigmas.to(x.device)[t].square()
        return error

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor | None
    ) -> torch.Tensor:
        x = x if self.backbone.training else x.to(self.backbone.dtype)
        texts = self.texts(conditions, len(x), x)
        return net(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=texts["states"],
            pooled_projections=texts["pooled"],
            return_dict=False,
        )[0]
