"""A multi-layer perceptron that denoises flattened images. It trains in seconds on one CPU core."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from difflab.core.size import as_setting
from difflab.models.pixel import Pixel

ROWS = 16
"""Rows of a product whose rows are few. Torch multiplies one or two rows by another kernel, which rounds
differently.
"""


class DenoisingMLP(ModelMixin, ConfigMixin):
    """Residual blocks on flattened images. An embedding of time and class modulates each block.

    Args:
        sample_size: size of the images in pixels: the side of a square, or [H, W].
        channels: channels of the images.
        width: hidden units per layer.
        depth: number of residual blocks.
        classes: number of classes; 0 = unconditional. The label `classes` means "no label".
    """

    to = nn.Module.to  # that of ModelMixin imports peft and transformers, which takes a second

    @register_to_config
    def __init__(self, sample_size: int | list[int], channels: int, width: int, depth: int, classes: int = 0):
        super().__init__()
        sides = [sample_size, sample_size] if isinstance(sample_size, int) else sample_size
        pixels = math.prod(sides) * channels
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
        if self.label is not None and class_labels is None:
            raise ValueError("a class-conditional model needs class_labels")
        condition, rows = self.condition(timestep, class_labels, sample.dtype)
        h = self.into(sample.flatten(1))
        for block in self.blocks:
            h = block(h, condition, rows)
        return self.out(h).view_as(sample)

    def condition(
        self, timestep: torch.Tensor, class_labels: torch.Tensor | None, kind: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The embeddings of time and class, [m, width], and the row of each image, int64 [n]; None = row i.

        In a step of sampling all images have one timestep, an expanded number. Images of a class then share a
        row, unless a policy has changed their embeddings. That halves the time of a pass (0.55 of it for 500
        images, width 256 and depth 4, one core), with the same bits.
        """
        embedding = None if self.label is None else self.label(class_labels)
        n, one_step = len(timestep), timestep.stride() == (0,)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not one_step or n <= ROWS:
            time = self.time(waves(timestep, self.width).to(kind))
            return time if embedding is None else time + embedding, None
        time = self.time(waves(timestep[:ROWS], self.width).to(kind))
        if self.label is None or embedding is None or class_labels is None:
            return time, torch.zeros(n, dtype=torch.int64, device=time.device)
        table = self.label.weight
        if len(table) >= n or not torch.equal(embedding, table[class_labels]):
            return time[:1] + embedding, None
        return nn.functional.pad(time[:1] + table, (0, 0, 0, -len(table) % ROWS)), class_labels


class Block(nn.Module):
    """h + MLP(scale * norm(h) + shift), the adaptive layer norm of DiT (2212.09748, sec. 3.2)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(
        self, h: torch.Tensor, condition: torch.Tensor, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        modulation = self.modulate(nn.functional.silu(condition))
        shift, scale = (modulation if rows is None else modulation[rows]).chunk(2, dim=-1)
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
        classes = self.shape.classes if self.spec.conditional else 0
        size, channels = as_setting(self.shape.size), self.shape.record[2]
        return DenoisingMLP(size, channels, self.spec.width, self.spec.depth, classes)

    @property
    def labels(self) -> Any:
        return self.net.label

    @classmethod
    def network_class(cls) -> Any:
        return DenoisingMLP
