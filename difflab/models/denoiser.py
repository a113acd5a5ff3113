"""What all diffusion families share, in pixels or latents: noise, loss, guidance, sampling.

A denoiser is a diffusers model that maps (noisy images, timesteps, class labels) to a prediction. Class `classes` is
the null label that classifier-free guidance needs (Ho & Salimans 2207.12598).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import compute_snr

from difflab.config import Sample, Train
from difflab.core.errors import StoreError
from difflab.core.files import read_tensors
from difflab.models.family import Family
from difflab.models.nonfinite import named, watched
from difflab.models.schedulers import check_scheduler, denoise, scheduler_of
from difflab.models.steer import Steer, Step, overrides


class Denoiser(Family):
    """Base of the diffusion families. `net` is what is trained, a torch module."""

    net: Any

    noise: Any  # a diffusers scheduler: the forward process of training
    steers: Sequence[Steer] = ()  # of the policies that act while sampling
    telling: Step | None = None  # while set, each family sends the embedding of its conditions through `tell`

    def network(self) -> Any:
        """The network, with its weights named as in training; also of a model that is not prepared yet."""
        return self.net

    @abstractmethod
    def initialise(self, seed: int, scratch: bool = True) -> None:
        """Fresh weights as a pure function of `seed`; without `scratch` those of the pretrained base, where there is one."""

    def prepare_training(self, train: Train, device: Any) -> None:
        """Whatever must happen before train.fit: the network is on the device and what is trained requires a gradient."""
        if train.gradient_checkpointing:
            self.net.enable_gradient_checkpointing()
        self.net.to(device)
        if train.compile:
            compile_blocks(self.net)

    def prepare_sampling(self, how: Sample, device: Any) -> None:
        """Whatever must happen before `sample`."""
        self.net.to(device).eval()
        if how.compile:
            compile_blocks(self.net)

    @property
    def encoder_key(self) -> str | None:
        """Name under which the encoder's results lie; None = there is no encoder."""
        return None

    def encoder(self, device: Any) -> Any:
        """What turns images into what is trained on and has a ``key``; None = the images themselves."""
        return None

    def inputs(self, shards: Any, indices: np.ndarray) -> np.ndarray:
        """What training reads of images `indices` of a set."""
        return shards.gather(indices)

    def draws(
        self,
        inputs: torch.Tensor,
        conditions: torch.Tensor | None,
        rows: slice,
        total: int,
        train: Train,
        rng: torch.Generator,
    ) -> dict[str, torch.Tensor | None]:
        """All that is random in one step: clean images, noise, timesteps and conditions of this process's part of the batch.

        Args:
            inputs: what the data set holds for this process's part of a batch of `total` images, see `clean`.
            conditions: int64 [b], or None.
            rows: which part of the batch this is. Everything is drawn for the whole batch from `rng` and cut, so that it
                does not depend on the number of processes.
        """
        x = self.clean(inputs, rows, total, rng)
        noise = torch.randn((total, *x.shape[1:]), generator=rng)[rows].to(x.device)
        t = self.timesteps(total, rng)[rows].to(x.device)
        dropped = torch.rand(total, generator=rng)[rows].to(x.device) < train.condition_dropout
        if conditions is not None:
            conditions = torch.where(dropped, self.null, conditions)
        return {"x": x, "noise": noise, "t": t, "conditions": conditions}

    def clean(self, inputs: torch.Tensor, rows: slice, total: int, rng: torch.Generator) -> torch.Tensor:
        """What is to be generated, [b, C, H, W], from uint8 images [b, H, W, C]: pixels in [-1, 1]."""
        return to_pixels(inputs)

    def timesteps(self, total: int, rng: torch.Generator) -> torch.Tensor:
        """Timesteps of a batch, int64 [total], uniform."""
        return torch.randint(self.noise.config.num_train_timesteps, (total,), generator=rng)

    def noisy(self, levels: torch.Tensor) -> torch.Tensor:
        """Timesteps at quantiles `levels` of the uniform ones, in [0, 1) from least noise to most: int64 of the same shape."""
        steps = self.noise.config.num_train_timesteps
        return (levels * steps).long().clamp(max=steps - 1)

    def error(
        self, net: Any, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor | None
    ) -> torch.Tensor:
        """Per-image mean squared error of the prediction: [b] (Ho et al. 2020, eq. 14; v: Salimans & Ho 2022, app. D).

        `net` may be wrapped for several processes.
        """
        v = self.noise.config.prediction_type == "v_prediction"
        target = self.noise.get_velocity(x, noise, t) if v else noise
        return (
            (self.predict(net, self.noise.add_noise(x, noise, t), t, conditions).float() - target.float())
            .square()
            .flatten(1)
            .mean(1)
        )

    def loss(
        self,
        net: Any,
        x: torch.Tensor,
        noise: torch.Tensor,
        t: torch.Tensor,
        conditions: torch.Tensor | None,
        train: Train,
    ) -> torch.Tensor:
        """What is trained on, [b]: the error, with train.min_snr_gamma weighted by min(SNR, gamma) / SNR, for v-prediction by
        min(SNR, gamma) / (SNR + 1) (Hang et al. 2303.09556, sec. 3.4)."""
        error = self.error(net, x, noise, t, conditions)
        if not train.min_snr_gamma:
            return error
        snr = compute_snr(self.noise, t)
        if self.noise.config.prediction_type == "v_prediction":
            return error * snr.clamp(max=train.min_snr_gamma) / (snr + 1)
        return error * (train.min_snr_gamma / snr).clamp(
            max=1
        )  # 1 where there is no signal, instead of 0 / 0

    @property
    def null(self) -> int:
        """The condition that means "none"."""
        return self.shape.classes

    def check_saved(self, folder: Path) -> None:
        """Raise StoreError where the folder that `save` wrote does not hold what is trained."""
        for file in self.trained_files(folder):
            read_tensors(file)

    @abstractmethod
    def trained_files(self, folder: Path) -> list[Path]:
        """The safetensors files of what is trained, in a folder that `save` wrote."""

    def base_files(self) -> list[Path]:
        """The same of the pretrained base; [] where there is none or it lacks what is trained."""
        return []

    # ------------------------------------------------------------------------------------------- sampling
    @torch.inference_mode()
    def sample(self, conditions: np.ndarray | None, seeds: list[int], how: Sample) -> np.ndarray:
        out = []
        for i in range(0, len(seeds), how.batch_size):
            own, part = (
                seeds[i : i + how.batch_size],
                None if conditions is None else conditions[i : i + how.batch_size],
            )
            n, full = len(own), how.batch_size
            if how.compile and n < full:  # another shape would be compiled anew; what fills it up is dropped
                own, part = list(np.resize(own, full)), None if part is None else np.resize(part, full)
            out.append(self._batch(part, [int(seed) for seed in own], how)[:n])
        return np.concatenate(out)

    def _batch(self, conditions: np.ndarray | None, seeds: list[int], how: Sample) -> np.ndarray:
        x = self._denoised(conditions, seeds, how)
        if not torch.isfinite(x).all():
            with watched(
                *(net for net in (self.net, getattr(self, "vae", None)) if net is not None)
            ) as found:
                self._denoised(conditions, seeds, how)
            raise StoreError(
                f"sampling produced non-finite pixels{named(found)}; the weights or the scheduler's settings are broken, or sample.precision={how.precision} is too coarse, so nothing was written"
            )
        return (x.clamp(-1, 1).add(1).mul(127.5)).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def _denoised(self, conditions: np.ndarray | None, seeds: list[int], how: Sample) -> torch.Tensor:
        device = next(self.net.parameters()).device
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        x = torch.stack([torch.randn(self.drawn, generator=g) for g in generators]).to(device)
        condition = (
            torch.from_numpy(conditions).to(device)
            if conditions is not None and self.spec.conditional
            else None
        )

        def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            share, scale = float(t) / self.noise.config.num_train_timesteps, how.guidance_scale
            for steer in self.steers:
                scale = steer.guidance(scale, share)
            step = Step(x, t.expand(len(x)), share, condition, scale, seeds)
            prediction = self.guided(step)
            for steer in self.steers:
                prediction = steer.prediction(prediction, step)
            return prediction

        return self.finish(denoise(self.scheduler(how, device), x, generators, predict, self.steers))

    def guided(self, step: Step) -> torch.Tensor:
        """Classifier-free guidance: eps = eps_u + g (eps_c - eps_u), g = 1 + w of the paper.

        As in diffusers' pipelines there is none where g is at most 1: the conditional prediction is taken as it is, which is how
        distilled models are asked (guidance_scale 0).
        """
        x, t, condition, scale = step.x, step.t, step.conditions, step.scale
        told, elsewhere = overrides(self.steers, "embedding"), overrides(self.steers, "without")
        if condition is None or (scale <= 1 and not told):
            return self.predict(self.net, x, t, condition)
        null = torch.full_like(condition, self.null)
        if not told and not elsewhere:
            # One pass over [unconditional, conditional].
            without, with_ = self.predict(
                self.net, torch.cat([x, x]), t.repeat(2), torch.cat([null, condition])
            ).chunk(2)
            return without + scale * (with_ - without)
        self.telling = step if told else None
        with_ = self.predict(self.net, x, t, condition)
        self.telling = None
        if scale <= 1:
            return with_
        other = next((found for steer in self.steers if (found := steer.without(step)) is not None), None)
        without = self.predict(self.net, x, t, null) if other is None else other
        return without + scale * (with_ - without)

    @torch.compiler.disable
    def tell(self, e: torch.Tensor) -> torch.Tensor:
        """The embedding of conditions as the policies change it."""
        assert self.telling is not None
        for steer in self.steers:
            e = steer.embedding(e, self.telling)
        return e

    @property
    def drawn(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of the noise that an image starts from."""
        h, w, c = self.shape.record
        return c, h, w

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels in [-1, 1] from what was denoised."""
        return x

    def scheduler(self, how: Sample, device: Any = "cpu") -> Any:
        """The sampling scheduler with its timesteps set. Raises ConfigError where `how` does not fit this family."""
        return scheduler_of(how, self.noise, device)

    def check_sampling(self, how: Sample) -> None:
        """Try the scheduler before anything is trained. Raises ConfigError where it cannot sample this family."""
        check_scheduler(self.scheduler, how, self.noise)

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """What `net` (perhaps wrapped for several processes) predicts for noisy images [n, C, H, W] at timesteps [n]."""
        return net(x, t, labels)


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, H, W, C] to float32 [n, C, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def compile_blocks(net: Any) -> None:
    """torch.compile the blocks that repeat: a few seconds instead of minutes, and most of the gain."""
    if getattr(net, "_repeated_blocks", None):
        net.compile_repeated_blocks()
    else:
        net.compile()
