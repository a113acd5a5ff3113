"""The contract of a text-to-image architecture: what difflab must know of a pipeline class of diffusers.

An architecture holds no weights. It reads the configs of a diffusers folder, and says how latents are
normalised, how prompts are encoded, how the network is called and which times the sampler uses. A new
architecture is one file in this folder with a subclass of `Architecture`; it is found by being there.

The network's input `x` is [n, C, h, w] everywhere in difflab: noise, scheduler and loss work on it. An
architecture that packs latents into tokens does so inside `predict`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors import safe_open
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import pad

from difflab.core.errors import ConfigError
from difflab.core.files import read_json
from difflab.models.text_to_image.latent_scale import LatentScale, latent_scale

Texts = dict[str, torch.Tensor]
"""The embeddings of n prompts: ``states`` [n, L, D], and what else the network reads: ``pooled`` [n, P], or
``mask`` bool [n, L] if prompts have different lengths. Each tensor has one row per prompt.
"""
Guidance = Literal["classifier-free", "embedded", "none"]
"""How a network is guided: by two predictions, by a scale that is one of its inputs, or not at all."""


class Architecture(ABC):
    """One architecture, opened on the configs of a diffusers folder.

    Args:
        path: the folder.
        index: the content of its model_index.json.
    """

    title: ClassVar[str]
    """Its name in the table of the docs."""
    pipelines: ClassVar[tuple[str, ...]]
    """The pipeline classes of diffusers that it covers."""
    backbone: ClassVar[str]
    """The diffusers class of the denoising network."""
    aliases: ClassVar[tuple[str, ...]] = ()
    """Older class names in the config of the network, which diffusers opens as `backbone`."""
    component: ClassVar[str] = "transformer"
    """The subfolder of the denoising network."""
    autoencoder: ClassVar[str] = "AutoencoderKL"
    """The diffusers class of the autoencoder."""
    family: ClassVar[str] = "flow"
    """The name that ``model.family`` has in a config. It stands for the forward process of training."""
    statistics: ClassVar[tuple[str, ...]] = ("scaling_factor",)
    """The entries of the autoencoder's config by which the pipeline normalises latents."""
    flags: ClassVar[tuple[str, ...]] = ("requires_safety_checker",)
    """The flags of model_index.json that are supported, or have no influence on sampling."""
    posterior: ClassVar[Literal["sample", "mode"]] = "sample"
    """What training takes from the autoencoder's posterior, as in the training scripts of diffusers."""
    preconditioned: ClassVar[bool] = False
    """Whether the training script of diffusers computes the loss on the denoised image."""
    patch: ClassVar[int] = 1
    """Side of the square of latent pixels that the pipeline packs into one token."""
    unguided: ClassVar[float] = 1.0
    """The largest value of the pipeline's guidance scale that means no guidance."""
    guidances: ClassVar[tuple[Guidance, ...]] = ("classifier-free",)
    """The values that `guidance` has for the folders of this architecture."""
    published: ClassVar[dict[str, dict[str, Any]]] = {}
    """Published models: name -> the settings of the network's config that differ from the class's defaults.

    The table of the docs computes sizes from them.
    """

    @classmethod
    def has_lora_loader(cls) -> bool:
        """Whether all its pipeline classes can save and load LoRA layers."""
        import diffusers

        return all(hasattr(getattr(diffusers, name), "save_lora_weights") for name in cls.pipelines)

    def __init__(self, path: Path, index: dict[str, Any]):
        self.path, self.index = path, index

    @property
    def pipeline(self) -> str:
        """The class name of the folder's pipeline."""
        return self.index["_class_name"]

    @cached_property
    def network_config(self) -> dict[str, Any]:
        """The config of the denoising network."""
        return read_json(self.path / self.component / "config.json")

    @cached_property
    def vae_config(self) -> dict[str, Any]:
        """The config of the autoencoder."""
        return read_json(self.path / "vae" / "config.json")

    def check(self) -> None:
        """Raise ConfigError if the configs have a setting that difflab would ignore."""
        file, wanted = self.path / self.component / "config.json", self.network_channels
        channels = self.network_config.get("in_channels", wanted)
        if channels != wanted:
            raise ConfigError(
                f"{file}: in_channels is {channels}, but the autoencoder's latents need {wanted}: this is a "
                "base with inputs besides noisy latents; use a text-to-image base"
            )
        self.scale  # noqa: B018 (its statistics are checked when it is read)

    # ------------------------------------------------------------------------------------------ geometry
    @property
    def latent_channels(self) -> int:
        """Channels of the autoencoder's latents."""
        return self.vae_config.get("latent_channels", 4)

    @property
    def image_channels(self) -> int:
        """Channels of the images that the autoencoder takes."""
        return self.vae_config.get("in_channels", 3)

    @property
    def network_channels(self) -> int:
        """The setting ``in_channels`` that the network needs for these latents."""
        return self.latent_channels * self.patch**2

    @property
    def downsampling(self) -> int:
        """Side of an image divided by the side of its latents."""
        return 2 ** (len(self.vae_config["block_out_channels"]) - 1)

    @cached_property
    def token_side(self) -> int:
        """Side of the square of latent pixels that is one token of the network."""
        return max(self.patch, self.network_config.get("patch_size") or 1)

    @property
    def multiple(self) -> int:
        """The side of an image must be a multiple of this number."""
        return self.downsampling * self.token_side

    def drawn(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape (C, h, w) of the network's input for images of `height` x `width` pixels."""
        return self.latent_channels, height // self.downsampling, width // self.downsampling

    # ------------------------------------------------------------------------------------------- latents
    @cached_property
    def scale(self) -> LatentScale:
        """The normalisation by the numbers in the autoencoder's config."""
        file = self.path / "vae" / "config.json"
        return latent_scale(file, self.pipeline, self.statistics, self.latent_channels)

    def normalise(self, z: torch.Tensor) -> torch.Tensor:
        """Convert latents of the autoencoder to inputs of the network."""
        return self.scale.normalise(z)

    def denormalise(self, x: torch.Tensor) -> torch.Tensor:
        """Convert outputs of the network to latents of the autoencoder."""
        return self.scale.denormalise(x)

    def encode(self, vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents of pixels [n, C, H, W] in [-1, 1]: each [n, c, h, w]."""
        posterior = vae.encode(pixels).latent_dist
        return posterior.mean, posterior.std

    def decode(self, vae: Any, z: torch.Tensor) -> torch.Tensor:
        """Pixels [n, C, H, W] of latents [n, c, h, w]."""
        return vae.decode(z).sample

    # --------------------------------------------------------------------------------------------- texts
    @abstractmethod
    def texts(self, pipe: Any, prompts: list[str], device: Any) -> Texts:
        """Embeddings of prompts, from the pipeline's own ``encode_prompt``.

        Args:
            pipe: the pipeline with its tokenizers and text encoders, without network and autoencoder.
            prompts: n texts.
            device: where the text encoders are.
        """

    def null_text(self, pipe: Any, device: Any) -> Texts:
        """The embedding of the null condition of classifier-free guidance, as one prompt."""
        return self.texts(pipe, [""], device)

    # ------------------------------------------------------------------------------------------- network
    @property
    def guidance(self) -> Guidance:
        """How the pipeline guides this network."""
        return "classifier-free"

    @abstractmethod
    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, texts: Texts, guidance: float
    ) -> torch.Tensor:
        """The prediction of the network: [n, C, h, w].

        It is e - x for flow matching, where x + s (e - x) is the noisy image; else what the scheduler's
        prediction_type says.

        Args:
            net: the network, or a wrapper for several processes.
            x: noisy latents [n, C, h, w].
            t: timesteps of the scheduler, [n], in [0, num_train_timesteps].
            texts: embeddings of n prompts.
            guidance: the guidance scale of a network that has it as an input.
        """

    def combine(self, unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
        """The guided prediction of classifier-free guidance: [n, C, h, w].

        A pipeline that has no guidance at scale 0 extrapolates from the conditional prediction.
        """
        return unconditional + (scale + 1 - self.unguided) * (conditional - unconditional)

    # ------------------------------------------------------------------------------------------ schedule
    def schedule(self, scheduler: dict[str, Any], steps: int, shape: tuple[int, int, int]) -> dict[str, Any]:
        """The keyword arguments that the pipeline passes to ``set_timesteps`` of its scheduler.

        Args:
            scheduler: the config of the scheduler.
            steps: number of steps.
            shape: shape (C, h, w) of the network's input.
        """
        if not scheduler.get("use_dynamic_shifting"):
            return {}
        return {"mu": linear_shift(scheduler, self.tokens(shape))}

    def tokens(self, shape: tuple[int, int, int]) -> int:
        """The number of tokens of an input of shape (C, h, w)."""
        return (shape[1] // self.token_side) * (shape[2] // self.token_side)


def linear_shift(scheduler: dict[str, Any], tokens: int) -> float:
    """The shift mu of the noise levels, linear in the number of tokens (``calculate_shift`` of diffusers)."""
    low, high = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    first, last = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    return first + (last - first) * (tokens - low) / (high - low)


def stored_weight(folder: Path, name: str) -> torch.Tensor:
    """One tensor of the weights in a folder. Raises ConfigError if no file has it."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118 (it is no dict)
                return tensors.get_tensor(name)
    raise ConfigError(f"{folder}: the weights lack {name}; the download is not complete: fetch it again")


def joined(parts: list[Texts]) -> Texts:
    """Concatenate embeddings. Shorter prompts are padded with zeros to the longest one.

    The parts need a ``mask`` if their prompts have different lengths.
    """
    tables = {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        if tensors[0].ndim > 1:
            length = max(t.shape[1] for t in tensors)
            tensors = [lengthened(t, length) for t in tensors]
        tables[name] = torch.cat(tensors)
    return tables


def padded(states: Sequence[torch.Tensor]) -> Texts:
    """The embeddings of prompts of different lengths, each [L_i, D], with zeros behind, and their mask."""
    masks = [torch.ones(1, len(part), dtype=torch.bool, device=part.device) for part in states]
    parts = zip(states, masks, strict=True)
    return joined([{"states": part[None], "mask": mask} for part, mask in parts])


def unpadded(texts: Texts) -> list[torch.Tensor]:
    """The embeddings of each prompt without padding: a list of [L_i, D].

    Tensors without values, of the meta device or a FakeTensorMode, are as long as the longest one.
    """
    states, mask = texts["states"], texts["mask"]
    if mask.is_meta or isinstance(mask, FakeTensor):
        return list(states.unbind())
    return [part[:length] for part, length in zip(states, mask.sum(1).tolist(), strict=True)]


def lengthened(t: torch.Tensor, length: int) -> torch.Tensor:
    """A tensor [n, L, ...] with zeros behind, as [n, length, ...]."""
    return pad(t, [0, 0] * (t.ndim - 2) + [0, length - t.shape[1]])


def falling(steps: int) -> list[float]:
    """Noise levels from 1 to 1 / steps, evenly spaced, before the scheduler shifts them."""
    return torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()
