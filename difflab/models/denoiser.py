"""Pixel-space diffusion models: what pixel-mlp and pixel-unet share. Noise, loss, guidance, sampling.

A denoiser is a diffusers model that maps (noisy images, timesteps, class labels) to a prediction. Class `classes` is
the null label that classifier-free guidance needs (Ho & Salimans 2207.12598).
"""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from difflab.config import Sample, Train
from difflab.errors import ConfigError, StoreError
from difflab.models.base import Family, Shape


class Denoiser(Family):
    """Base of the pixel families. `net` is a diffusers ModelMixin; images are scaled to [-1, 1]."""

    net: Any

    def __init__(self, spec: Any, shape: Shape):
        super().__init__(spec, shape)
        if spec.conditional and not shape.classes:
            raise ConfigError(f"model.conditional=true needs a labelled set; use model.conditional=false (family {spec.family})")
        from diffusers import DDPMScheduler

        self.noise = DDPMScheduler(num_train_timesteps=spec.train_timesteps, beta_schedule=spec.beta_schedule, prediction_type=spec.prediction_type)

    # ------------------------------------------------------------------------------ for each family to say
    @abstractmethod
    def build(self) -> Any:
        """A new network with fresh weights, drawn from torch's global generator."""

    @classmethod
    @abstractmethod
    def network_class(cls) -> Any:
        """The diffusers model class, for loading."""

    # ------------------------------------------------------------------------------------------- training
    def initialise(self, seed: int) -> None:
        """Fresh weights as a pure function of `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = self.build()

    def loss(
        self, net: Any, images: torch.Tensor, labels: torch.Tensor | None, rows: slice, total: int, train: Train, rng: torch.Generator
    ) -> torch.Tensor:
        """Per-image mean squared error of the prediction: [b] (Ho et al. 2020, eq. 14; v: Salimans & Ho 2022, app. D).

        Args:
            net: the network, possibly wrapped for several processes.
            images: uint8 [b, H, W, C], this process's part of a batch of `total` images.
            labels: int64 [b], or None.
            rows: which part of the batch this is. Noise, timesteps and dropped labels are drawn for the whole batch
                from `rng` and cut, so that they do not depend on the number of processes.
        """
        device = images.device
        x = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        noise = torch.randn((total, *x.shape[1:]), generator=rng)[rows].to(device)
        t = torch.randint(self.spec.train_timesteps, (total,), generator=rng)[rows].to(device)
        dropped = torch.rand(total, generator=rng)[rows].to(device) < train.condition_dropout
        noisy = self.noise.add_noise(x, noise, t)
        target = noise if self.spec.prediction_type == "epsilon" else self.noise.get_velocity(x, noise, t)
        if labels is not None:
            labels = torch.where(dropped, self.shape.classes, labels)
        return (self.predict(net, noisy, t, labels).float() - target).square().flatten(1).mean(1)

    # ------------------------------------------------------------------------------------------- sampling
    @torch.inference_mode()
    def sample(self, labels: np.ndarray | None, seeds: list[int], how: Sample) -> np.ndarray:
        out = [
            self._batch(None if labels is None else labels[i : i + how.batch_size], seeds[i : i + how.batch_size], how)
            for i in range(0, len(seeds), how.batch_size)
        ]
        return np.concatenate(out)

    def _batch(self, labels: np.ndarray | None, seeds: list[int], how: Sample) -> np.ndarray:
        device = next(self.net.parameters()).device
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        h, w, c = self.shape.record
        x = torch.stack([torch.randn((c, h, w), generator=g) for g in generators]).to(device)
        condition = torch.from_numpy(labels).to(device) if labels is not None and self.spec.conditional else None
        null = None if condition is None else torch.full_like(condition, self.shape.classes)

        scheduler = scheduler_of(how, self.noise)
        scheduler.set_timesteps(how.steps, device=device)
        x = x * scheduler.init_noise_sigma
        extra = _step_arguments(scheduler, generators)
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t)
            if how.guidance_scale == 1 or condition is None:
                prediction = self.predict(self.net, scaled, t.expand(len(x)), condition)
            elif how.guidance_scale == 0:
                prediction = self.predict(self.net, scaled, t.expand(len(x)), null)
            else:
                # One pass over [unconditional, conditional]: eps = eps_u + g (eps_c - eps_u), g = 1 + w of the paper.
                both = self.predict(self.net, torch.cat([scaled, scaled]), t.expand(2 * len(x)), torch.cat([null, condition]))  # type: ignore[list-item]
                without, with_ = both.chunk(2)
                prediction = without + how.guidance_scale * (with_ - without)
            x = scheduler.step(prediction, t, x, **extra).prev_sample
        if not torch.isfinite(x).all():
            raise StoreError("sampling produced non-finite pixels; the weights or the scheduler's settings are broken, so nothing was written")
        return (x.clamp(-1, 1).add(1).mul(127.5)).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def predict(self, net: Any, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """What `net` (perhaps wrapped for several processes) predicts for noisy images [n, C, H, W] at timesteps [n]."""
        return net(x, t, labels)

    # --------------------------------------------------------------------------------------------- files
    def save(self, folder: Path) -> None:
        self.net.save_pretrained(folder / "unet", safe_serialization=True)
        self.noise.save_pretrained(folder / "scheduler")

    @classmethod
    def load(cls, spec: Any, shape: Shape, folder: Path) -> Denoiser:
        model = cls(spec, shape)
        try:
            model.net = model.network_class().from_pretrained(folder / "unet", use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False)
        except (OSError, ValueError, json.JSONDecodeError, RuntimeError) as error:
            raise StoreError(
                f"{folder} holds no readable model ({' '.join(str(error).split())[:160]}); delete it and run the same command again"
            ) from error
        return model


def scheduler_of(how: Sample, noise: Any) -> Any:
    """The sampling scheduler by its diffusers name, with the noise schedule of training.

    Raises ConfigError for an unknown name, an unknown option or one that does not fit this family.
    """
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    kind = getattr(diffusers, how.scheduler, None) if how.scheduler.isidentifier() else None
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        import difflib

        known = sorted(name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax"))
        near = difflib.get_close_matches(how.scheduler, known, 1)
        raise ConfigError(
            f"sample.scheduler '{how.scheduler}' is no scheduler of diffusers"
            + (f"; did you mean '{near[0]}'?" if near else f"; for example {known[0]}")
        )
    accepted = kind.__init__.__wrapped__.__code__.co_varnames if hasattr(kind.__init__, "__wrapped__") else ()
    unknown = [key for key in how.scheduler_options if accepted and key not in accepted]
    if unknown:
        raise ConfigError(f"sample.scheduler_options: {how.scheduler} knows no '{unknown[0]}'")
    config = {**noise.config}
    if how.scheduler == "DDIMScheduler":
        config |= {"timestep_spacing": "trailing"}  # the last step must start from pure noise (Lin et al. 2305.08891)
    return kind.from_config({**config, **how.scheduler_options})


def _step_arguments(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    """Per-image generators for the schedulers that add noise, and clipping that is consistent.

    DDIM clips the predicted image but by default keeps the noise that belonged to the unclipped one. Images with many
    pixels at black or white (digits: half of them) then keep a residue of noise that guidance amplifies; deriving the
    noise from the clipped image removes it.
    """
    names = scheduler.step.__code__.co_varnames[: scheduler.step.__code__.co_argcount]
    arguments: dict[str, Any] = {"generator": generators} if "generator" in names else {}
    if "use_clipped_model_output" in names and scheduler.config.get("clip_sample"):
        arguments["use_clipped_model_output"] = True
    return arguments
