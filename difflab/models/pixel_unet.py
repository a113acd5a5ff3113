"""The UNet2DModel of diffusers in pixel space, for small images such as MNIST and CIFAR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, UNet2DModel

from difflab.core.size import as_setting
from difflab.models.family import check_divisible
from difflab.models.pixel import Pixel


class PixelUNet(Pixel):
    """Family ``pixel-unet``. Unconditional models are saved as a complete DDPMPipeline of diffusers."""

    def build(self) -> Any:
        c = self.shape.record[2]
        channels, levels = self.spec.channels, len(self.spec.channels)
        why = f"but model.channels has {levels} resolutions, which halve the images {levels - 1} times"
        check_divisible(self.shape, 2 ** (levels - 1), why)
        attention = self.spec.attention or [False] * (levels - 1) + [True]
        return UNet2DModel(
            sample_size=as_setting(self.shape.size),
            in_channels=c,
            out_channels=c,
            layers_per_block=self.spec.layers_per_block,
            block_out_channels=tuple(channels),
            down_block_types=tuple("AttnDownBlock2D" if on else "DownBlock2D" for on in attention),
            up_block_types=tuple("AttnUpBlock2D" if on else "UpBlock2D" for on in reversed(attention)),
            norm_num_groups=self.spec.norm_groups,
            num_class_embeds=self.shape.classes + 1 if self.spec.conditional else None,
        )

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        return net(x, t, class_labels=labels).sample

    @property
    def labels(self) -> Any:
        return self.net.class_embedding

    @classmethod
    def network_class(cls) -> Any:
        return UNet2DModel

    def save(self, folder: Path) -> None:
        super().save(folder)
        if not self.spec.conditional:
            DDPMPipeline(self.net, self.noise).save_pretrained(folder)  # type: ignore[attr-defined]
