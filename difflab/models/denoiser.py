"""Pixel-space diffusion models: what pixel-mlp and pixel-unet share. Noise, loss, guidance, sampling.

A denoiser is a diffusers model that maps (noisy images, timesteps, class labels) to a prediction. Class `classes` is
the null label that classifier-free guidance needs (Ho & Salimans 2207.12598).
"""

from __future__ import annotations

import difflib
import inspect
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
        self.noise = noise_of(spec)

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

        scheduler = scheduler_of(how, self.noise, device)
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
            model.net, info = model.network_class().from_pretrained(
                folder / "unet", use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
            )
            wrong = {name: keys for name, keys in info.items() if keys}
            if wrong:  # diffusers would fill the gaps with random weights
                raise ValueError(f"weights do not match its config: {wrong}")
        except (OSError, ValueError, TypeError, json.JSONDecodeError, RuntimeError) as error:
            raise StoreError(
                f"{folder} holds no readable model ({' '.join(str(error).split())[:160]}); delete it and run the same command again"
            ) from error
        return model


def noise_of(spec: Any) -> Any:
    """The forward process of training."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(num_train_timesteps=spec.train_timesteps, beta_schedule=spec.beta_schedule, prediction_type=spec.prediction_type)


def scheduler_of(how: Sample, noise: Any, device: Any = "cpu") -> Any:
    """The sampling scheduler by its diffusers name, with the noise schedule of training and its timesteps set.

    Raises ConfigError for an unknown name, an unknown option or one that does not fit this family.
    """
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    name, options = how.scheduler, how.scheduler_options
    kind = getattr(diffusers, name, None) if name.isidentifier() else None
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        known = [known for known in dir(diffusers) if known.endswith("Scheduler") and not known.startswith("Flax")]
        raise ConfigError(f"sample.scheduler '{name}' is no scheduler of diffusers; {_near(name, known, 'for example DDIMScheduler')}")
    accepted = inspect.signature(kind.__init__).parameters
    # Only the forward process is handed on: the other settings of a DDPMScheduler are not this scheduler's defaults.
    forward = {key: noise.config[key] for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")}
    if not forward.keys() <= accepted.keys() or "Inverse" in name:
        raise ConfigError(f"sample.scheduler '{name}' does not denoise what this family is trained on; for example DDIMScheduler does")
    spacing = accepted.get("timestep_spacing")
    if spacing is not None and spacing.default == "leading":
        forward["timestep_spacing"] = "trailing"  # the first step must start from pure noise (Lin et al. 2305.08891)
    for key in options:
        if key not in accepted or key == "self":
            raise ConfigError(f"sample.scheduler_options: {name} knows no '{key}'; {_near(key, accepted, 'see its page in the diffusers docs')}")
        if key == "trained_betas" or (key in forward and key != "timestep_spacing"):
            raise ConfigError(
                f"sample.scheduler_options: '{key}' is settled by training; set model.train_timesteps, beta_schedule or prediction_type"
            )
    try:
        scheduler: Any = kind(**{**forward, **options})
        scheduler.set_timesteps(how.steps, device=device)
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise ConfigError(f"sample.scheduler '{name}' refuses {options} with sample.steps {how.steps}: {' '.join(str(error).split())}") from error
    return scheduler


def _near(word: str, known: Any, otherwise: str) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean '{near[0]}'?" if near else otherwise


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
