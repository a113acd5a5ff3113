"""VGG-16 as torch-fidelity reads it for precision and recall."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from difflab.core.errors import MeasureError
from difflab.core.hashing import sha256_of
from difflab.features.extractor import ready
from difflab.features.resize import RESIZES

WEIGHTS_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
SIDE = 224
"""Pixels of a side of the network's input."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels of ImageNet, for values from 0 to 1."""


@dataclass(frozen=True)
class Vgg16:
    """The network in steps, for images that are resized one by one because their sizes differ.

    Attributes:
        recipe: input size, resize, dtype and the SHA-256 of the weights.
        network: torch-fidelity's extractor.
        device: where the network runs.
        dim: features per image.
    """

    recipe: dict[str, Any]
    network: Any
    device: str | torch.device = "cpu"
    dim: int = 4096

    def prepared(self, image_HWC: Tensor) -> Tensor:
        """What the first layer reads, float32 [3, 224, 224], of a uint8 image [H, W, 3] of any size."""
        resized = RESIZES["tf1"](image_HWC.permute(2, 0, 1).unsqueeze(0).float(), SIDE)[0]
        mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return (resized - mean) / std

    @torch.no_grad()
    def features(self, x_NCHW: Tensor) -> Tensor:
        """Features float32 [n, 4096] of the last hidden layer behind its ReLU, on the CPU."""
        return F.relu(self.network.model(x_NCHW.to(self.device))).float().cpu()


def open_vgg_steps(path: str | None, device: str | torch.device) -> Vgg16:
    """VGG-16 with the weights of torchvision.

    Args:
        path: file of the weights, .pth; None = torch.hub's cache, filled by a download of 528 MB.
        device: where the network runs.

    Raises MeasureError where the weights cannot be had, or the file holds other ones.
    """
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    weights: io.BytesIO | None = None
    advice = f"fetch {WEIGHTS_URL} and give its path as vgg16:PATH"
    if path:
        file = Path(path).expanduser()
        if not file.is_file():
            raise MeasureError(f"no weights of VGG-16 at {file}; {advice}")
    try:
        if path:
            # torch-fidelity unpickles its file without weights_only. It gets a copy of the tensors that were
            # read safely here.
            weights = io.BytesIO()
            torch.save(torch.load(file, map_location="cpu", weights_only=True), weights)
            weights.seek(0)
        network = FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=weights)
    except Exception as error:  # torch and torchvision raise many kinds for files and downloads
        reason = " ".join(str(error).split())[:200]
        raise MeasureError(f"cannot open VGG-16 ({type(error).__name__}: {reason}); {advice}") from error
    network = ready(network, device)
    recipe = {
        "input": f"{SIDE}x{SIDE}",
        "resize": "TensorFlow 1 bilinear (torch-fidelity)",
        "values": f"mean {list(MEAN)}, std {list(STD)}",
        "layer": "fc2_relu",
        "dtype": "float32",
        "sha256": sha256_of(network.state_dict()),
    }
    return Vgg16(recipe, network, device)
