"""Text-to-image models that are trained by flow matching in latent space (Esser et al. 2403.03206)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from difflab.config import Sample, Train
from difflab.models.base_settings import scheduler_settings, training_process
from difflab.models.latent import Latent
from difflab.models.schedulers import scheduler_of


class Flow(Latent):
    """Family ``flow``.

    The path from image x to noise e is (1 - s) x + s e. The network predicts the velocity e - x of the path.
    """

    def training_noise(self) -> Any:
        return training_process(self.base, FlowMatchEulerDiscreteScheduler)

    @property
    def training_guidance(self) -> float:
        return self.spec.embedded_guidance

    def scheduler(self, sampling: Sample, device: Any = "cpu") -> Any:
        settings = scheduler_settings(self.base)
        schedule = self.architecture.schedule(settings, sampling.steps, self.drawn)
        return scheduler_of(sampling, self.noise, device, settings, schedule)

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
        preconditioned = self.spec.precondition_outputs
        if preconditioned is None:
            preconditioned = self.architecture.preconditioned
        if preconditioned:
            error = error * self.noise.sigmas.to(x.device)[t].square()
        return error
