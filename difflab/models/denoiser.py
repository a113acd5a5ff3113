"""The base class of all diffusion families, in pixel space or latent space: noise, loss, guidance, sampling.

A denoiser is a diffusers model that maps (noisy images, timesteps, conditions) to a prediction. A condition
is a class label or the position of a caption. The highest number is the null condition of classifier-free
guidance (Ho & Salimans 2207.12598).
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from difflab.config import Sample, Train
from difflab.core.errors import StoreError
from difflab.core.files import read_tensors
from difflab.core.precision import products
from difflab.core.shape import Shape
from difflab.core.size import Size
from difflab.core.threads import each_on_a_core
from difflab.models.compiled import compile_network
from difflab.models.family import Family
from difflab.models.guidance import EmbeddingChange, combine, guided
from difflab.models.nonfinite import named, watched
from difflab.models.schedulers import check_scheduler, denoise, scheduler_of
from difflab.models.steer import Steer, Step

HALVED = 16
"""Smallest batch that is drawn in two halves. On two cores, halves of 32 images of tiny-sd took 0.88 of the
time of one batch of 64, and halves of 128 digits 0.63.
"""


class Denoiser(Family):
    """Base of the diffusion families. `net` is the trained torch module.

    Call `initialise` or `load` first. Then call `prepare_training` before a training, and `prepare_sampling`
    before `sample`.
    """

    net: Any
    noise: Any
    """A diffusers scheduler: the forward process of training."""
    vae: Any = None
    """The autoencoder of a latent family, after `prepare_sampling`."""
    steers: Sequence[Steer] = ()
    """The hooks of the active sampling policies."""

    def __init__(self, spec: Any, shape: Shape):
        super().__init__(spec, shape)
        self.embedding_change = EmbeddingChange()

    def at(self, size: Size) -> Self:
        """This model for images of one size, (H, W), of a set of several sizes. The networks are shared."""
        model = copy.copy(self)
        model.shape = self.shape.at(size)
        return model

    def network(self) -> Any:
        """The network with the parameter names of training. It exists before `prepare_training` is called."""
        return self.net

    @abstractmethod
    def initialise(self, seed: int, scratch: bool = True) -> None:
        """Set new random weights, which are a pure function of `seed`.

        With scratch=False, set the weights of the pretrained base, if there is one.
        """

    def encode_texts(self, settings: Train | Sample, device: Any, part: int = 0, parts: int = 1) -> None:
        """Write the embeddings of the captions to disk, if the model has captions.

        Call it before the network is loaded, so that network and text encoders are not in memory together.

        Args:
            settings: the section `train` or `sample` of a config; its precision is that of the encoders.
            device: where the encoders run.
            part: number of this process.
            parts: number of processes that share the work.
        """

    def join_texts(self, settings: Train | Sample, device: Any) -> None:
        """Join what all processes wrote in `encode_texts` into one file, if it does not exist."""

    def prepare_training(self, train: Train, device: Any) -> None:
        """Move the network to the device. Afterwards only the trained parameters require a gradient."""
        if train.gradient_checkpointing:
            self.net.enable_gradient_checkpointing()
        self.net.to(device)
        if train.compile is True:
            compile_network(self.net, device)

    def prepare_sampling(self, sampling: Sample, device: Any) -> None:
        """Move everything that `sample` needs to the device, in its precision."""
        self.net.to(device).eval()
        if sampling.compile is True:
            compile_network(self.net, device)

    @property
    def encoder_key(self) -> str | None:
        """The name under which the encoder's outputs are cached; None = there is no encoder."""
        return None

    def encoder(self, device: Any) -> Any:
        """A callable with a ``key`` that converts images to training inputs; None = images are the inputs."""
        return None

    def inputs(self, shards: Any, indices: np.ndarray) -> np.ndarray:
        """The training inputs of images `indices` of a set: uint8 [n, H, W, C], or the encoder's outputs."""
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
        """All random inputs of one training step, for this process's part of the batch.

        Args:
            inputs: training inputs of this process's part of a batch of `total` images, see `clean`.
            conditions: int64 [b], or None.
            rows: the position of this process's part in the batch.
            total: number of images in the whole batch.
            train: the section `train` of a config.
            rng: all numbers are drawn from it for the whole batch, and then cut to `rows`. The result
                therefore does not depend on the number of processes.

        Returns clean images `x`, `noise`, timesteps `t` and `conditions`.
        """
        x = self.clean(inputs, rows, total, rng)
        noise = torch.randn((total, *x.shape[1:]), generator=rng)[rows].to(x.device)
        t = self.timesteps(total, rng)[rows].to(x.device)
        dropped = torch.rand(total, generator=rng)[rows].to(x.device) < train.condition_dropout
        if conditions is not None:
            conditions = torch.where(dropped, self.null, conditions)
        return {"x": x, "noise": noise, "t": t, "conditions": conditions}

    def clean(self, inputs: torch.Tensor, rows: slice, total: int, rng: torch.Generator) -> torch.Tensor:
        """Convert training inputs to clean images [b, C, H, W] for the network; here pixels in [-1, 1]."""
        return to_pixels(inputs)

    def timesteps(self, total: int, rng: torch.Generator) -> torch.Tensor:
        """Uniform random timesteps of a batch: int64 [total]."""
        return torch.randint(self.noise.config.num_train_timesteps, (total,), generator=rng)

    def noisy(self, levels: torch.Tensor) -> torch.Tensor:
        """Timesteps at quantiles `levels` of the uniform distribution: int64 of the same shape.

        `levels` lie in [0, 1); 0 = least noise.
        """
        steps = self.noise.config.num_train_timesteps
        return (levels * steps).long().clamp(max=steps - 1)

    def error(
        self, net: Any, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor | None
    ) -> torch.Tensor:
        """Per-image mean squared error of the prediction: [b] (Ho et al. 2006.11239, eq. 14).

        A v-prediction is compared with the velocity (Salimans & Ho 2202.00512, app. D). `net` may be a
        wrapper for several processes.
        """
        if self.noise.config.prediction_type == "v_prediction":
            target = self.noise.get_velocity(x, noise, t)
        else:
            target = noise
        prediction = self.predict(net, self.noise.add_noise(x, noise, t), t, conditions)
        return (prediction.float() - target.float()).square().flatten(1).mean(1)

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

        With train.min_snr_gamma the error is weighted by min(SNR, gamma) / SNR, for v-prediction by
        min(SNR, gamma) / (SNR + 1) (Hang et al. 2303.09556, sec. 3.4).
        """
        error = self.error(net, x, noise, t, conditions)
        if not train.min_snr_gamma:
            return error
        from diffusers.training_utils import compute_snr  # imports all models of diffusers: 1.6 s

        snr = compute_snr(self.noise, t)
        if self.noise.config.prediction_type == "v_prediction":
            return error * snr.clamp(max=train.min_snr_gamma) / (snr + 1)
        # Where there is no signal, the clamp gives 1 instead of 0 / 0.
        return error * (train.min_snr_gamma / snr).clamp(max=1)

    @property
    def null(self) -> int:
        """The null condition, which means that there is no class or caption."""
        return self.shape.classes

    def check_saved(self, folder: Path) -> None:
        """Raise StoreError if the trained weights cannot be read from a folder that `save` wrote."""
        for file in self.trained_files(folder):
            read_tensors(file)

    @abstractmethod
    def trained_files(self, folder: Path) -> list[Path]:
        """The safetensors files of the trained weights, in a folder that `save` wrote."""

    def base_files(self) -> list[Path]:
        """The base's weight files of the trained components; [] if there is no base, or for LoRA."""
        return []

    # ------------------------------------------------------------------------------------------- sampling
    @torch.inference_mode()
    def sample(self, conditions: np.ndarray | None, seeds: list[int], sampling: Sample) -> np.ndarray:
        """Draw one image per seed: uint8 [n, H, W, C]. See Family."""
        images = []
        with products(sampling.precision, next(self.net.parameters()).device):
            for start in range(0, len(seeds), sampling.batch_size):
                batch = slice(start, start + sampling.batch_size)
                batch_conditions = None if conditions is None else conditions[batch]
                images.append(self._batch(batch_conditions, [int(seed) for seed in seeds[batch]], sampling))
        return np.concatenate(images)

    def _batch(self, conditions: np.ndarray | None, seeds: list[int], sampling: Sample) -> np.ndarray:
        """Images of one batch: uint8 [n, H, W, C]."""
        n = len(seeds)
        if sampling.compile and n < sampling.batch_size:  # another batch size would be compiled again
            seeds = [int(seed) for seed in np.resize(seeds, sampling.batch_size)]
            conditions = None if conditions is None else np.resize(conditions, sampling.batch_size)
        x = self._drawn(conditions, seeds, sampling)
        if not torch.isfinite(x).all():
            networks = [network for network in (self.net, self.vae) if network is not None]
            with watched(*networks) as nonfinite_layers:
                self._denoised(conditions, seeds, sampling)
            raise StoreError(
                f"sampling produced non-finite pixels{named(nonfinite_layers)}; the weights or the "
                "scheduler's settings"
                f" are broken, or sample.precision={sampling.precision} is too coarse, so nothing was written"
            )
        levels = (x.clamp(-1, 1).add(1).mul(127.5)).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).cpu().numpy()[:n]

    def _drawn(self, conditions: np.ndarray | None, seeds: list[int], sampling: Sample) -> torch.Tensor:
        """Pixels in [-1, 1] before rounding, [n, C, H, W].

        On a CPU the two halves of a batch of at least `HALVED` images are drawn at the same time, each on
        half of the cores. Policies see the whole batch.
        """
        on_cpu = next(self.net.parameters()).device.type == "cpu"
        if not on_cpu or sampling.compile or self.steers or len(seeds) < HALVED:
            return self._denoised(conditions, seeds, sampling)

        def draw(part: slice) -> torch.Tensor:
            return self._denoised(None if conditions is None else conditions[part], seeds[part], sampling)

        half = len(seeds) // 2
        return torch.cat(each_on_a_core(draw, [slice(0, half), slice(half, None)]))

    @torch.inference_mode()
    def _denoised(self, conditions: np.ndarray | None, seeds: list[int], sampling: Sample) -> torch.Tensor:
        """The same in one batch."""
        device = next(self.net.parameters()).device
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(self.drawn, generator=g) for g in generators]).to(device)
        condition = None
        if conditions is not None and self.spec.conditional:
            condition = torch.from_numpy(conditions).to(device)

        def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            share, scale = float(t) / self.noise.config.num_train_timesteps, sampling.guidance_scale
            for steer in self.steers:
                scale = steer.guidance(scale, share)
            step = Step(x, t.expand(len(x)), share, condition, scale, seeds)
            prediction = self.guided(step)
            for steer in self.steers:
                prediction = steer.prediction(prediction, step)
            return prediction

        return self.finish(denoise(self.scheduler(sampling, device), noise, generators, predict, self.steers))

    def guided(self, step: Step) -> torch.Tensor:
        """The prediction of one step with classifier-free guidance: [n, C, H, W]."""
        predict = partial(self.predict, self.net)
        change, combine = self.embedding_change, self.combine
        return guided(predict, step, self.null, self.steers, change, combine, self.unguided)

    @property
    def unguided(self) -> float:
        """The largest guidance scale that means no guidance."""
        return 1.0

    def passes(self, sampling: Sample) -> int:
        """Passes of the network per sample and step: 2 with classifier-free guidance, else 1."""
        return 2 if sampling.guidance_scale > self.unguided else 1

    def combine(self, unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
        """The guided prediction of classifier-free guidance: [n, C, H, W]."""
        return combine(unconditional, conditional, scale)

    @property
    def drawn(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of the noise that an image starts from."""
        h, w, c = self.shape.record
        return c, h, w

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels in [-1, 1] from the denoised tensor [n, C, H, W]."""
        return x

    def scheduler(self, sampling: Sample, device: Any = "cpu") -> Any:
        """The sampling scheduler with its timesteps set.

        Raises ConfigError if the family does not support the scheduler or its options.
        """
        return scheduler_of(sampling, self.noise, device)

    def check_sampling(self, sampling: Sample) -> None:
        """Test the scheduler before anything is trained.

        Raises ConfigError if it cannot sample models of this family.
        """
        check_scheduler(self.scheduler, sampling, self.noise)

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """The prediction of `net` for noisy images [n, C, H, W] at timesteps [n].

        `net` may be a wrapper for several processes.
        """
        return net(x, t, labels)


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Convert images uint8 [n, H, W, C] to float32 [n, C, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1
