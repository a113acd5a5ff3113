"""Encodes images to the posterior of an autoencoder, once for each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from difflab.models.denoiser import to_pixels
from difflab.models.text_to_image.architecture import Architecture

DECODED_PIXELS = 2**21
"""Pixels in one pass of the autoencoder: 8 images of 512 px."""
Encode = Callable[[Any, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(autoencoder, pixels [n, C, H, W] in [-1, 1]) -> mean and standard deviation of the latents."""


class Encoder:
    """Encodes images uint8 [n, H, W, C] as mean and standard deviation of latents, float32 [n, 2c, h, w].

    Args:
        vae: the autoencoder.
        key: identifies the weights of the autoencoder.
        architecture: knows how this autoencoder is called.
    """

    def __init__(self, vae: Any, key: str, architecture: Architecture):
        self.vae, self.key, self.architecture = vae, key, architecture

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        batch = max(1, DECODED_PIXELS // (images.shape[1] * images.shape[2]))
        return moments(self.vae, images, batch, self.architecture.encode)


def _posterior(vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    posterior = vae.encode(pixels).latent_dist
    return posterior.mean, posterior.std


@torch.no_grad()
def moments(vae: Any, images: torch.Tensor, batch: int = 64, encode: Encode = _posterior) -> torch.Tensor:
    """Mean and standard deviation of the autoencoder's posterior, stacked along the channels.

    Args:
        images: uint8 [n, H, W, C].
        batch: number of images in one pass.
        encode: (autoencoder, pixels [n, C, H, W] in [-1, 1]) -> mean and standard deviation.

    Returns float32 [n, 2c, h, w] on the CPU.
    """
    device, kind = vae.device, vae.dtype
    out = []
    for part in images.split(batch):
        mean, std = encode(vae, to_pixels(part.to(device)).to(kind))
        out.append(torch.cat([mean, std], 1).float().cpu())
    return torch.cat(out)
