"""Trains the AutoencoderKL of a latent model from scratch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from difflab.config import Train
from difflab.models.denoiser import to_pixels


class Reconstruction(nn.Module):
    """Encodes images, draws latents from the posterior and decodes them.

    (x [n, C, H, W], noise [n, c, h, w]) -> (reconstruction [n, C, H, W], KL divergence per latent value [n]).
    """

    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        posterior = self.vae.encode(x).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).mean(1)
        return self.vae.decode(mean + logvar.mul(0.5).exp() * noise).sample, kl


class Autoencoder:
    """An AutoencoderKL with the methods that the training loop calls.

    The loss is the absolute error of the pixels, plus that of the differences between neighbouring pixels,
    plus a KL divergence. The differences give edges more weight. With the pixel error alone such a small
    network blurs outlines. Images are mirrored and their colour channels are permuted at random, so that the
    network does not memorise a training set of a few thousand images.

    Args:
        vae: the AutoencoderKL.
        kl_weight: weight of the KL divergence per latent value.
    """

    def __init__(self, vae: Any, kl_weight: float):
        self.net, self.kl_weight = Reconstruction(vae), kl_weight

    def draws(
        self,
        inputs: torch.Tensor,
        conditions: None,
        rows: slice,
        total: int,
        train: Train,
        rng: torch.Generator,
    ) -> dict[str, Any]:
        """All random inputs of one training step, see `Denoiser.draws`."""
        x = to_pixels(inputs)
        flip = torch.rand(total, generator=rng)[rows] < 0.5
        colours = torch.rand((total, x.shape[1]), generator=rng)[rows].argsort(1).to(x.device)
        x = x.gather(1, colours[:, :, None, None].expand_as(x))
        x[flip] = x[flip].flip(3)
        config = self.net.vae.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        shape = (config.latent_channels, x.shape[2] // factor, x.shape[3] // factor)
        return {"x": x, "noise": torch.randn((total, *shape), generator=rng)[rows].to(x.device)}

    def loss(self, net: Any, x: torch.Tensor, noise: torch.Tensor, train: Train) -> torch.Tensor:
        """Per-image loss [b]."""
        out, kl = net(x, noise)
        out = out.float()
        edges = sum((out.diff(dim=dim) - x.diff(dim=dim)).abs().flatten(1).mean(1) for dim in (2, 3))
        return F.l1_loss(out, x, reduction="none").flatten(1).mean(1) + edges + self.kl_weight * kl


@torch.no_grad()
def reconstruction_error(vae: Any, images: torch.Tensor) -> float:
    """Mean absolute error of decoded posterior means, in levels 0 to 255, for uint8 images [n, H, W, C]."""
    total = 0.0
    for part in images.split(64):
        x = to_pixels(part.to(vae.device)).to(vae.dtype)
        decoded = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        total += float((decoded.float() - x.float()).abs().mean(dim=(1, 2, 3)).sum()) * 127.5
    return total / len(images)


def build(
    channels: list[int],
    latent_channels: int,
    layers_per_block: int,
    norm_groups: int,
    image_size: int,
    image_channels: int = 3,
) -> Any:
    """A new AutoencoderKL with random weights from torch's global generator.

    Each entry of `channels` after the first halves the side of the latents.
    """
    levels = len(channels)
    return AutoencoderKL(
        in_channels=image_channels,
        out_channels=image_channels,
        block_out_channels=tuple(channels),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=latent_channels,
        layers_per_block=layers_per_block,
        norm_num_groups=norm_groups,
        sample_size=image_size,
    )


class Memory:
    """A training set in memory, with the methods that the training loop calls."""

    def __init__(self, values: np.ndarray, conditions: np.ndarray | None = None):
        self.values, self.conditions = values, conditions

    def __len__(self) -> int:
        return len(self.values)

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """The values at positions `rows`."""
        return self.values[rows]
