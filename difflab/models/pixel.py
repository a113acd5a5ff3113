"""The base class of the pixel-space families pixel-mlp and pixel-unet.

They start from random weights and are conditioned on class labels. The label `classes` is the null condition
of classifier-free guidance (Ho & Salimans 2207.12598).
"""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch

from difflab.config import Sample
from difflab.core.errors import ConfigError, StoreError
from difflab.core.shape import Shape
from difflab.models.denoiser import Denoiser


class Pixel(Denoiser):
    """Base of the pixel families. `net` is a diffusers ModelMixin. Pixels are scaled to [-1, 1]."""

    _embedding_hook: Any = None
    """The handle of the forward hook on the label embedding that applies `embedding_change`."""

    def __init__(self, spec: Any, shape: Shape):
        super().__init__(spec, shape)
        if spec.conditional and not shape.classes:
            raise ConfigError(
                "model.conditional=true needs a labelled set; use model.conditional=false (family "
                f"{spec.family})"
            )
        self.noise = noise_of(spec)

    @abstractmethod
    def build(self) -> Any:
        """A new network with random weights from torch's global generator."""

    @classmethod
    @abstractmethod
    def network_class(cls) -> Any:
        """The diffusers model class that loads the network."""

    def initialise(self, seed: int, scratch: bool = True) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = self.build()

    def unshard(self, state: dict[str, torch.Tensor]) -> None:
        self.net = self.build()
        self.net.load_state_dict(state)

    def save(self, folder: Path) -> None:
        self.net.save_pretrained(folder / "unet", safe_serialization=True)
        self.noise.save_pretrained(folder / "scheduler")

    @property
    @abstractmethod
    def labels(self) -> Any:
        """The module of `net` that embeds class labels; None = the model is unconditional."""

    def prepare_sampling(self, sampling: Sample, device: Any) -> None:
        super().prepare_sampling(sampling, device)
        if self._embedding_hook is not None:
            self._embedding_hook.remove()
            self._embedding_hook = None
        if self.labels is not None:
            change = self.embedding_change
            self._embedding_hook = self.labels.register_forward_hook(lambda module, inputs, e: change(e))

    def trained_files(self, folder: Path) -> list[Path]:
        return sorted((folder / "unet").glob("*.safetensors"))

    @classmethod
    def load(cls, spec: Any, shape: Shape, folder: Path) -> Pixel:
        model = cls(spec, shape)
        try:
            model.net, info = model.network_class().from_pretrained(
                folder / "unet",
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
            wrong = {name: keys for name, keys in info.items() if keys}
            if wrong:  # diffusers would replace missing weights by random ones
                raise ValueError(f"weights do not match its config: {wrong}")
        except (OSError, ValueError, TypeError, json.JSONDecodeError, RuntimeError) as error:
            raise StoreError(
                f"{folder} holds no readable model ({' '.join(str(error).split())[:160]}); delete it and "
                "run the same command again"
            ) from error
        return model


def noise_of(spec: Any) -> Any:
    """The forward process of training, a diffusers DDPMScheduler."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=spec.train_timesteps,
        beta_schedule=spec.beta_schedule,
        prediction_type=spec.prediction_type,
    )
