"""What the configs of a pretrained base say: all of it is honoured, or refused by its name.

Diffusers ignores a key that a class does not know, and each pipeline applies only some of the settings of its
parts. A base whose folder asks for more than difflab computes would be trained and sampled as another model,
so that it is refused before anything runs.
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

# Settings of a UNet that its pipeline feeds with more than noisy latents, a timestep and text.
INPUTS = {
    "time_cond_proj_dim": "an embedded guidance scale (a latent consistency model)",
    "class_embed_type": "class labels beside the text",
    "num_class_embeds": "class labels beside the text",
    "encoder_hid_dim_type": "image embeddings",
}
ADDITION = {"StableDiffusionXLPipeline": "text_time"}  # pipeline -> what it embeds beside the text
CHANNELS = {
    9: "an inpainting base",
    8: "an InstructPix2Pix base",
    7: "an upscaling base",
    5: "a depth-to-image base",
}
# Flags of model_index.json that are honoured, or have no part in sampling.
INDEX = ("force_zeros_for_empty_prompt", "requires_safety_checker")
STATISTICS = {  # pipeline -> statistics of the latents that it applies besides scaling_factor
    "StableDiffusionXLPipeline": ("latents_mean", "latents_std"),
    "StableDiffusion3Pipeline": ("shift_factor",),
}


def check_base(base: Base, component: str, backbone: Any, vae: Any) -> None:
    """Raise ConfigError where a config of the base says something that would be ignored.

    Args:
        component: name of the backbone's folder. backbone, vae: the diffusers classes that will read the two.
    """
    for name, kind in ((component, backbone), ("vae", vae)):
        _check_keys(base.path / name / "config.json", kind)
    network, autoencoder = (
        read_json(base.path / component / "config.json"),
        read_json(base.path / "vae" / "config.json"),
    )
    where = base.path / component / "config.json"
    own, wanted = network.get("in_channels", 4), autoencoder.get("latent_channels", 4)
    if own != wanted:
        what = CHANNELS.get(own, "a base that reads more than noisy latents")
        raise ConfigError(
            f"{where}: in_channels is {own} and the autoencoder's latents have {wanted}: this is {what}; "
            "use a text-to-image base"
        )
    for key, what in INPUTS.items():
        if network.get(key) is not None:
            raise ConfigError(
                f"{where}: {key} is {network[key]!r}: this network reads {what}, which difflab does not "
                "feed; use another base"
            )
    added = network.get("addition_embed_type")
    if added != ADDITION.get(base.kind):
        raise ConfigError(
            f"{where}: addition_embed_type is {added!r}, and {base.kind} embeds "
            f"{ADDITION.get(base.kind)!r}; use another base"
        )
    flags = [key for key, value in base.index.items() if value is True and key not in INDEX]
    if flags:
        raise ConfigError(
            f"{base.path / 'model_index.json'}: '{flags[0]}' is true, which difflab does not honour; use "
            "another base"
        )
    latent_scale(base)


def _hint(key: str, known: Iterable[str]) -> str:
    """What to do about a setting that diffusers would ignore."""
    for match in closest(key, known):
        return f"did it mean '{match}'?"
    return "update diffusers, or remove the key if it has no effect"


def _check_keys(file: Path, kind: Any) -> None:
    """Raise ConfigError for a config of another class, or with a setting that its class would ignore."""
    content = read_json(file)
    named = content.get("_class_name", kind.__name__)
    if named != kind.__name__:
        raise ConfigError(f"{file} is of a {named}; difflab reads a {kind.__name__} here: use another base")
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
    """The normalisation x = (z - shift) scale / std of the autoencoder's latents z for the network.

    See Rombach et al. 2112.10752, app. G.

    shift, std: floats, or tensors [1, C, 1, 1]; std None = 1.
    """

    scale: float
    shift: Any = 0.0
    std: Any = None

    def normalise(self, z: torch.Tensor) -> torch.Tensor:
        """Latents [n, C, h, w] as the network sees them."""
        x = (z - _like(self.shift, z)) * self.scale
        return x if self.std is None else x / _like(self.std, z)

    def denormalise(self, x: torch.Tensor) -> torch.Tensor:
        """Latents [n, C, h, w] as the autoencoder decodes them."""
        x = x if self.std is None else x * _like(self.std, x)
        return x / self.scale + _like(self.shift, x)


def _like(value: Any, x: torch.Tensor) -> Any:
    return value.to(x.device, x.dtype) if isinstance(value, torch.Tensor) else value


def latent_scale(base: Base) -> LatentScale:
    """The statistics that the base's pipeline applies.

    Raises ConfigError for those that it has and its pipeline would ignore.
    """
    file = base.path / "vae" / "config.json"
    config = read_json(file)
    applied = STATISTICS.get(base.kind, ())
    given = {
        key: config.get(key)
        for key in ("shift_factor", "latents_mean", "latents_std")
        if config.get(key) not in (None, 0, 0.0)
    }
    ignored = [key for key in given if key not in applied]
    if ignored:
        raise ConfigError(
            f"{file}: '{ignored[0]}' is set and {base.kind} does not apply it; remove the key, or use the "
            "pipeline that it was made for"
        )
    scale = config.get("scaling_factor", 0.18215)
    if "latents_mean" not in given and "latents_std" not in given:
        return LatentScale(scale, given.get("shift_factor", 0.0))
    channels = config.get("latent_channels", 4)
    for key in ("latents_mean", "latents_std"):
        if len(given.get(key) or []) != channels:
            raise ConfigError(
                f"{file}: latents_mean and latents_std go together, with {channels} numbers each; '{key}' "
                f"is {config.get(key)!r}"
            )
    mean, std = (
        torch.tensor(given[key], dtype=torch.float32).view(1, -1, 1, 1)
        for key in ("latents_mean", "latents_std")
    )
    return LatentScale(scale, mean, std)


# --------------------------------------------------------------------------------------------- noise schedule
def scheduler_settings(base: Base) -> dict[str, Any]:
    """The base's scheduler config as its pipeline uses it.

    Raises ConfigError for a setting that no scheduler of diffusers knows.
    """
    config, file = base.scheduler_config(), base.path / "scheduler" / "scheduler_config.json"
    known: set[str] = set()
    for name in scheduler_names():
        try:
            known |= inspect.signature(scheduler_class(name).__init__).parameters.keys()
        except ConfigError:  # of a package that is not installed
            continue
    for key, value in config.items():
        if key not in known and not key.startswith("_") and value not in (None, False):
            hint = _hint(key, known)
            raise ConfigError(
                f"{file}: no scheduler of the installed diffusers knows '{key}' ({value!r}); {hint}"
            )
    if base.kind == "StableDiffusionPipeline":  # it mends these two of old folders
        config |= {
            key: value for key, value in (("steps_offset", 1), ("clip_sample", False)) if key in config
        }
    return config


def training_process(base: Base, kind: Any) -> Any:
    """The forward process of training, a `kind` from the base's scheduler config.

    Raises ConfigError where the base's own scheduler class computes other noise levels from that config, so
    that the weights were made for another process than `kind` would train.
    """
    config, file = scheduler_settings(base), base.path / "scheduler" / "scheduler_config.json"
    named = config.get("_class_name")
    own = None
    if named is not None and named != kind.__name__:
        try:
            own = scheduler_class(named).from_config(config)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ConfigError(
                f"{file}: {named} refuses its own config ({' '.join(str(error).split())[:160]})"
            ) from error
    noise = kind.from_config(config)
    if not hasattr(noise, "alphas_cumprod"):
        if own is not None and "FlowMatch" not in str(named):
            raise ConfigError(
                f"{file}: {named} is no flow-matching scheduler, and {base.kind} is trained by flow "
                "matching; use another base"
            )
        return noise
    levels = None if own is None else getattr(own, "alphas_cumprod", None)
    if own is not None and levels is None:
        raise ConfigError(
            f"{file}: {named} has no alphas_cumprod: the base was trained by another process than "
            f"{kind.__name__}; use another base"
        )
    if levels is not None and (
        levels.shape != noise.alphas_cumprod.shape
        or float((levels - noise.alphas_cumprod).abs().max()) > SAME_LEVELS
    ):
        unknown = [
            key for key in ("rescale_betas_zero_snr", "snr_shift_scale", "trained_betas") if config.get(key)
        ]
        cause = (
            f" ({', '.join(f'{key}: {config[key]}' for key in unknown)} is not known to both)"
            if unknown
            else ""
        )
        raise ConfigError(
            f"{file}: {named} makes other noise levels of this config than {kind.__name__}, which "
            f"trains{cause}; "
            "set the scheduler that the base was trained with"
        )
    return noise
