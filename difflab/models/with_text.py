"""A denoising network and the text encoder that is trained with it, as one module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class WithText(nn.Module):
    """The backbone and its trained text encoder: (noisy latents, t, token ids [n, L]) -> prediction."""

    def __init__(self, backbone: Any, text_encoder: Any):
        super().__init__()
        self.backbone, self.text_encoder = backbone, text_encoder

    def forward(self, x: torch.Tensor, t: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.backbone(x, t, encoder_hidden_states=self.text_encoder(ids)[0]).sample
