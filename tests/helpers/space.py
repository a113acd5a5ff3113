"""A feature space of one's own, as python:FILE.py:NAME takes it."""

from __future__ import annotations

import torch


def rows_and_columns(images: torch.Tensor) -> torch.Tensor:
    """Eight means over rows and eight over columns: float32 [n, 16] of uint8 [n, H, W, C]."""
    small = torch.nn.functional.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float(), 8).mean(1)
    return torch.cat([small.mean(1), small.mean(2)], 1)
