"""A multi-layer perceptron that denoises flattened images. It trains in seconds on one CPU core."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from difflab.models.pixel import Pixel


class DenoisingMLP(ModelMixin, ConfigMixin):
    """Residual blocks on flattened images. An embedding of time and class modulates each block.

    Args:
        sample_size: side of the images in pixels.
        channels: channels of the images.
        width: hidden units per layer.
        depth: number of residual blocks.
        classes: number of classes; 0 = unconditional. The label `classes` means "no label".
    """

    to = nn.Module.to  # that of ModelMixin imports peft and transformers, which takes a second

    @register_to_config
    def __init__(self, sample_size: int, channels: int, width: int, depth: int, classes: int = 0):
        super().__init__()
        pixels = sample_size * sample_size * channels
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.into = nn.Linear(pixels, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, pixels))

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """sample [n, C, H, W], timestep [n], class_labels int64 [n] or None -> prediction [n, C, H, W]."""
        condition = self.time(waves(timestep, self.width).to(sample.dtype))
        if self.label is not None:
            if class_labels is None:
                raise ValueError("a class-conditional model needs class_labels")
            condition = condition + self.label(class_labels)
        h = self.into(sample.flatten(1))
        for block in self.blocks:
            h = block(h, condition)
        return self.out(h).view_as(sample)


class Block(nn.Module):
    """h + MLP(scale * norm(h) + shift), the adaptive layer norm of DiT (2212.09748, sec. 3.2)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift, scale = self.modulate(nn.functional.silu(condition)).chunk(2, dim=-1)
        return h + self.mlp(self.norm(h) * (1 + scale) + shift)


def waves(timestep: torch.Tensor, width: int) -> torch.Tensor:
    """Sinusoidal embedding of timesteps: [n, width]."""
    half = width // 2
    rates = torch.exp(
        -math.log(10_000) * torch.arange(half, device=timestep.device, dtype=torch.float32) / half
    )
    angles = timestep.float()[:, None] * rates
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return nn.functional.pad(embedding, (0, width - 2 * half))


class PixelMLP(Pixel):
    """Family ``pixel-mlp``."""

    def build(self) -> Any:
        h, _, c = self.shape.record
        return DenoisingMLP(
            h, c, self.spec.width, self.spec.depth, self.shape.classes if self.spec.conditional else 0
        )

    @property
    def labels(self) -> Any:
        return self.net.label

    @classmethod
    def network_class(cls) -> Any:
        return DenoisingMLP
