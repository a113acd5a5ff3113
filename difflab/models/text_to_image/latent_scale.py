"""The normalisation of an autoencoder's latents by the numbers in its config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from difflab.core.errors import ConfigError
from difflab.core.files import read_json


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


def latent_scale(file: Path, pipeline: str, applied: Sequence[str], channels: int) -> LatentScale:
    """The normalisation of latents that a pipeline applies.

    Args:
        file: the config of the autoencoder.
        pipeline: class name of the pipeline, for messages.
        applied: the statistics of the config that the pipeline applies, of ``scaling_factor``,
            ``shift_factor``, ``latents_mean`` and ``latents_std``.
        channels: number of channels of the latents.

    Raises ConfigError if the config has statistics that the pipeline ignores.
    """
    config = read_json(file)
    statistics = {
        key: config.get(key)
        for key in ("shift_factor", "latents_mean", "latents_std")
        if config.get(key) not in (None, 0, 0.0)
    }
    ignored = [key for key in statistics if key not in applied]
    if ignored:
        raise ConfigError(
            f"{file}: '{ignored[0]}' is set, but {pipeline} does not apply it; remove the key, or use the "
            "pipeline that it was made for"
        )
    scale = config.get("scaling_factor", 0.18215) if "scaling_factor" in applied else 1.0
    if "latents_mean" not in statistics and "latents_std" not in statistics:
        return LatentScale(scale, statistics.get("shift_factor", 0.0))
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
