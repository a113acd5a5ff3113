"""A small random network in the place of Inception, the same in difflab and in the packages; and images that
are not square.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from difflab.features.inception import Inception

DIM = 16


def weights() -> tuple[Tensor, Tensor]:
    """Of a convolution [16, 3, 9, 9] and of the logits [10, 16]."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(DIM, 3, 9, 9, generator=draw) / 9, 3 * torch.randn(10, DIM, generator=draw)


def encode(x_NCHW: Tensor) -> Tensor:
    """Images as the first layer reads them, [n, 3, 299, 299], to features [n, 16]."""
    return F.relu(F.conv2d(x_NCHW.float(), weights()[0], stride=9)).mean((2, 3))


def small(resize: str) -> Inception:
    recipe = {"input": "299x299", "resize": resize, "sha256": "0" * 64}
    return Inception(
        resize, recipe, encode, lambda features: features @ weights()[1].T, "cpu", nn.Identity(), DIM
    )


def write(folder: Path, count: int, seed: int, size: tuple[int, int] | None = (14, 9)) -> Path:
    """`count` PNG files of one (width, height), or of sizes that differ where `size` is None."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for i in range(count):
        width, height = size or draw.integers(5, 400, 2)
        low = draw.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(low).resize((width, height))).astype(int)
        noisy = smooth + draw.integers(-40, 41 + 10 * seed, smooth.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i:04d}.png")
    return folder


def random_weights(path: Path) -> Path:
    """Random weights of the whole Inception network, as a .pth file. Nothing fades over its layers."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, state):  # type: ignore[override]
            pass

    torch.save({}, path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blank = Blank("blank", ["2048"], feature_extractor_weights_path=str(path))
        for layer in blank.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
    torch.save(blank.state_dict(), path)
    return path
