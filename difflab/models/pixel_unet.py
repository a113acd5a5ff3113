"""The UNet2DModel of diffusers in pixel space, for small images such as MNIST and CIFAR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, UNet2DModel

from difflab.core.errors import ConfigError
from difflab.models.pixel import Pixel


class PixelUNet(Pixel):
    """Family ``pixel-unet``. Unconditional models are saved as a complete DDPMPipeline of diffusers."""

    def build(self) -> Any:
        h, _, c = self.shape.record
        channels, levels = self.spec.channels, len(self.spec.channels)
        if h % 2 ** (levels - 1):
            raise ConfigError(
                f"model.channels has {levels} resolutions, but {h} px cannot be halved {levels - 1} times; "
                "use fewer resolutions or another data.image_size"
            )
        attention = self.spec.attention or [False] * (levels - 1) + [True]
        return UNet2DModel(
            sample_size=h,
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
