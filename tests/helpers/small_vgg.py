"""A small random network in the place of VGG-16, in difflab and in torch-fidelity."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOAD = "torch_fidelity.feature_extractor_vgg16.torchvision_load_pretrained_vgg16"
"""Where torch-fidelity loads the network, to be replaced."""


class TinyVgg(nn.Module):
    """A network with the parts of VGG-16 that torch-fidelity touches."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [nn.Linear(3 * 49, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 8)]
        self.classifier = nn.Sequential(*layers, nn.ReLU(), nn.Dropout(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.avg_pool2d(x, 32).flatten(1))
