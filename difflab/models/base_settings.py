"""Checks that difflab supports every setting in the configs of a pretrained base.

Diffusers ignores keys that a class does not know, and each pipeline applies only some settings of its
components. A base with a setting that difflab ignores would be trained and sampled as a different model.
Such a base is an error, which names the setting and is raised before anything runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from difflab.core.errors import ConfigError
from difflab.core.files import read_json
from difflab.core.suggest import closest
from difflab.models.pretrained import Base
from difflab.models.schedulers import SAME_LEVELS, scheduler_class, scheduler_names

# Settings of a UNet that has inputs besides noisy latents, a timestep and text.
INPUTS = {
    "time_cond_proj_dim": "an embedded guidance scale (a latent consistency model)",
    "class_embed_type": "class labels in addition to the text",
    "num_class_embeds": "class labels in addition to the text",
    "encoder_hid_dim_type": "image embeddings",
}
ADDITION = {"StableDiffusionXLPipeline": "text_time"}  # pipeline -> its additional embedding
CHANNELS = {
    9: "an inpainting base",
    8: "an InstructPix2Pix base",
    7: "an upscaling base",
    5: "a depth-to-image base",
}
# Flags of model_index.json that are supported, or have no influence on sampling.
INDEX = ("force_zeros_for_empty_prompt", "requires_safety_checker")
STATISTICS = {  # pipeline -> the statistics of the latents that it applies, besides scaling_factor
    "StableDiffusionXLPipeline": ("latents_mean", "latents_std"),
    "StableDiffusion3Pipeline": ("shift_factor",),
}


def check_base(base: Base, component: str, backbone: Any, vae: Any) -> None:
    """Raise ConfigError if a config of the base has a setting that would be ignored.

    Args:
        base: the pretrained base.
        component: name of the backbone's folder.
        backbone: the diffusers class that loads the backbone.
        vae: the diffusers class that loads the autoencoder.
    """
    for name, kind in ((component, backbone), ("vae", vae)):
        _check_keys(base.path / name / "config.json", kind)
    network, autoencoder = (
        read_json(base.path / component / "config.json"),
        read_json(base.path / "vae" / "config.json"),
    )
    where = base.path / component / "config.json"
    in_channels, latent_channels = network.get("in_channels", 4), autoencoder.get("latent_channels", 4)
    if in_channels != latent_channels:
        kind_of_base = CHANNELS.get(in_channels, "a base with inputs besides noisy latents")
        raise ConfigError(
            f"{where}: in_channels is {in_channels} and the autoencoder's latents have {latent_channels} "
            f"channels: this is {kind_of_base}; use a text-to-image base"
        )
    for key, extra_input in INPUTS.items():
        if network.get(key) is not None:
            raise ConfigError(
                f"{where}: {key} is {network[key]!r}: this network needs {extra_input}, which difflab does "
                "not supply; use another base"
            )
    added = network.get("addition_embed_type")
    if added != ADDITION.get(base.kind):
        raise ConfigError(
            f"{where}: addition_embed_type is {added!r}, but {base.kind} needs "
            f"{ADDITION.get(base.kind)!r}; use another base"
        )
    flags = [key for key, value in base.index.items() if value is True and key not in INDEX]
    if flags:
        raise ConfigError(
            f"{base.path / 'model_index.json'}: '{flags[0]}' is true, which difflab does not support; use "
            "another base"
        )
    latent_scale(base)


def _hint(key: str, known: Iterable[str]) -> str:
    """The advice of an error message about a setting that diffusers would ignore."""
    for match in closest(key, known):
        return f"did you mean '{match}'?"
    return "update diffusers, or remove the key if it has no effect"


def _check_keys(file: Path, kind: Any) -> None:
    """Raise ConfigError if the config in `file` is not of class `kind`, or `kind` ignores a setting of it."""
    content = read_json(file)
    named = content.get("_class_name", kind.__name__)
    if named != kind.__name__:
        raise ConfigError(
            f"{file} is the config of a {named}; difflab supports only {kind.__name__} here: use another base"
        )
    known = inspect.signature(kind.__init__).parameters
    for key, value in content.items():
        if key not in known and not key.startswith("_") and value not in (None, False):
            hint = _hint(key, known)
            raise ConfigError(
                f"{file}: {kind.__name__} of the installed diffusers ignores '{key}' ({value!r}); {hint}"
            )


# ------------------------------------------------------------------------------------------------- latents
@dataclass(frozen=True)
class LatentScale:
    """Normalises the autoencoder's latents z for the network: x = (z - shift) scale / std.

    See Rombach et al. 2112.10752, app. G.

    Attributes:
        scale: a float.
        shift: a float, or a tensor [1, C, 1, 1].
        std: a tensor [1, C, 1, 1]; None = 1.
    """

    scale: float
    shift: Any = 0.0
    std: Any = None

    def normalise(self, z: torch.Tensor) -> torch.Tensor:
        """Convert latents [n, C, h, w] of the autoencoder to inputs of the network."""
        x = (z - _like(self.shift, z)) * self.scale
        return x if self.std is None else x / _like(self.std, z)

    def denormalise(self, x: torch.Tensor) -> torch.Tensor:
        """Convert outputs [n, C, h, w] of the network to latents of the autoencoder."""
        x = x if self.std is None else x * _like(self.std, x)
        return x / self.scale + _like(self.shift, x)


def _like(value: Any, x: torch.Tensor) -> Any:
    return value.to(x.device, x.dtype) if isinstance(value, torch.Tensor) else value


def latent_scale(base: Base) -> LatentScale:
    """The normalisation of latents that the base's pipeline applies.

    Raises ConfigError if the autoencoder's config has statistics that the pipeline ignores.
    """
    file = base.path / "vae" / "config.json"
    config = read_json(file)
    applied = STATISTICS.get(base.kind, ())
    statistics = {
        key: config.get(key)
        for key in ("shift_factor", "latents_mean", "latents_std")
        if config.get(key) not in (None, 0, 0.0)
    }
    ignored = [key for key in statistics if key not in applied]
    if ignored:
        raise ConfigError(
            f"{file}: '{ignored[0]}' is set, but {base.kind} does not apply it; remove the key, or use the "
            "pipeline that it was made for"
        )
    scale = config.get("scaling_factor", 0.18215)
    if "latents_mean" not in statistics and "latents_std" not in statistics:
        return LatentScale(scale, statistics.get("shift_factor", 0.0))
    channels = config.get("latent_channels", 4)
    for key in ("latents_mean", "latents_std"):
        if len(statistics.get(key) or []) != channels:
            raise ConfigError(
                f"{file}: latents_mean and latents_std must both be set, with {channels} numbers each; "
                f"'{key}' is {config.get(key)!r}"
            )
    mean, std = (
        torch.tensor(statistics[key], dtype=torch.float32).view(1, -1, 1, 1)
        for key in ("latents_mean", "latents_std")
    )
    return LatentScale(scale, mean, std)


# --------------------------------------------------------------------------------------------- noise schedule
def scheduler_settings(base: Base) -> dict[str, Any]:
    """The base's scheduler config as its pipeline uses it.

    Raises ConfigError for a setting that no scheduler of diffusers accepts.
    """
    config, file = base.scheduler_config(), base.path / "scheduler" / "scheduler_config.json"
    known: set[str] = set()
    for name in scheduler_names():
        try:
            known |= inspect.signature(scheduler_class(name).__init__).parameters.keys()
        except ConfigError:  # the scheduler needs a package that is not installed
            continue
    for key, value in config.items():
        if key not in known and not key.startswith("_") and value not in (None, False):
            hint = _hint(key, known)
            raise ConfigError(
                f"{file}: no scheduler of the installed diffusers accepts '{key}' ({value!r}); {hint}"
            )
    if base.kind == "StableDiffusionPipeline":  # the pipeline overwrites these two settings of old folders
        config |= {
            key: value for key, value in (("steps_offset", 1), ("clip_sample", False)) if key in config
        }
    return config


def training_process(base: Base, kind: Any) -> Any:
    """The forward process of training: a scheduler of class `kind` with the base's scheduler config.

    Raises ConfigError if the base's own scheduler class computes different noise levels from that config. The
    weights were then trained with a different process.
    """
    config, file = scheduler_settings(base), base.path / "scheduler" / "scheduler_config.json"
    named = config.get("_class_name")
    base_scheduler = None
    if named is not None and named != kind.__name__:
        try:
            base_scheduler = scheduler_class(named).from_config(config)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ConfigError(
                f"{file}: {named} cannot be created from its own config "
                f"({' '.join(str(error).split())[:160]})"
            ) from error
    noise = kind.from_config(config)
    if not hasattr(noise, "alphas_cumprod"):
        if base_scheduler is not None and "FlowMatch" not in str(named):
            raise ConfigError(
                f"{file}: {named} is not a flow-matching scheduler, but {base.kind} is trained by flow "
                "matching; use another base"
            )
        return noise
    if base_scheduler is None:
        return noise
    levels = getattr(base_scheduler, "alphas_cumprod", None)
    if levels is None:
        raise ConfigError(
            f"{file}: {named} has no alphas_cumprod, so the base was not trained with the process of "
            f"{kind.__name__}; use another base"
        )
    if (
        levels.shape != noise.alphas_cumprod.shape
        or float((levels - noise.alphas_cumprod).abs().max()) > SAME_LEVELS
    ):
        raise ConfigError(
            f"{file}: {named} computes other noise levels from this config than {kind.__name__}, which is "
            f"used for training{_cause(config)}; set the scheduler that the base was trained with"
        )
    return noise


def _cause(config: dict[str, Any]) -> str:
    """The settings that change the noise levels of some schedulers only, in brackets; "" = there are none."""
    keys = [key for key in ("rescale_betas_zero_snr", "snr_shift_scale", "trained_betas") if config.get(key)]
    if not keys:
        return ""
    settings = ", ".join(f"{key}: {config[key]}" for key in keys)
    return f" (only one of them supports {settings})"
