"""The Inception network of FID, as torch-fidelity ports it from TensorFlow."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.hashing import sha256_of
from difflab.features.extractor import Extractor, ready
from difflab.features.folding import without_batch_norm
from difflab.features.preprocess import as_rgb
from difflab.features.resize import RESIZES, known_resize

RELEASE = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"
INCEPTION_URL = f"{RELEASE}/weights-inception-2015-12-05-6726825d.pth"
RESIZE_NAMES = {
    "tf1": "TensorFlow 1 bilinear (torch-fidelity)",
    "torchmetrics": "bilinear antialias (torchmetrics)",
    "clean": "bicubic antialias (clean-fid)",
    "pytorch-fid": "bilinear without antialias (pytorch-fid)",
}
"""The text of each resize in the recipe. Stored numbers are compared by it."""
SIDE = 299
"""Pixels of a side of the network's input."""


@dataclass(frozen=True)
class Inception:
    """The network in steps, for images that are resized one by one because their sizes differ.

    Attributes:
        resize: key of `RESIZES`.
        recipe: input size, resize, values, dtype and the SHA-256 of the weights.
        encode: what the first layer reads, float32 [n, 3, 299, 299], to features [n, 2048].
        to_logits: features [n, 2048] to class logits without bias [n, 1008], for the Inception Score.
        device: where the network runs.
        network: the module itself, so that it can be moved.
        dim: features per image.
    """

    resize: str
    recipe: dict[str, Any]
    encode: Callable[[Tensor], Tensor]
    to_logits: Callable[[Tensor], Tensor]
    device: str | torch.device = "cpu"
    network: Any = None
    dim: int = 2048

    def prepared(self, image_HWC: Tensor) -> Tensor:
        """What the first layer reads, float32 [3, 299, 299], of a uint8 image [H, W, 3] of any size."""
        resized_NCHW = RESIZES[self.resize](image_HWC.permute(2, 0, 1).unsqueeze(0).float(), SIDE)
        return network_values(resized_NCHW, self.resize)[0]

    @torch.no_grad()
    def features(self, x_NCHW: Tensor) -> Tensor:
        """Features float32 [n, 2048], on the CPU, of images from `prepared`."""
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            return self.encode(x_NCHW.to(self.device)).float().cpu()


def network_values(resized_NCHW: Tensor, resize: str) -> Tensor:
    """Resized values in [0, 255] as the network reads them.

    pytorch-fid maps 255 to 1. All others do as TensorFlow's graph, which maps 255 to 127/128.
    """
    if resize == "pytorch-fid":
        return 2 * (resized_NCHW / 255) - 1
    return (resized_NCHW - 128) / 128


def open_inception_steps(path: str | None, device: str | torch.device, resize: str) -> Inception:
    """The Inception network for images of different sizes.

    Args:
        path: file of the weights, .pth or .safetensors; None = torch.hub's cache, filled by a download.
        device: where the network runs.
        resize: key of `RESIZES`.

    Batch norm is folded into the convolutions, which changes features by rounding: a relative 4e-7.

    Raises MeasureError where the weights cannot be had, or the file holds other ones.
    """
    known_resize(resize)
    network, sha256 = _load(path)
    network = ready(without_batch_norm(network.eval()), device)
    recipe = {
        "input": f"{SIDE}x{SIDE}",
        "resize": RESIZE_NAMES[resize],
        "values": "2x/255 - 1" if resize == "pytorch-fid" else "[-1, 1]",
        "dtype": "float32",
        "sha256": sha256,
    }

    # The network takes only bytes and resizes them itself. The hook hands the resized images to its first
    # layer.
    of_this_thread = threading.local()
    network.Conv2d_1a_3x3.register_forward_pre_hook(lambda layer, inputs: (of_this_thread.x_NCHW,))

    def encode(x_NCHW: Tensor) -> Tensor:
        of_this_thread.x_NCHW = x_NCHW
        blank = torch.zeros(len(x_NCHW), 3, 1, 1, dtype=torch.uint8, device=x_NCHW.device)
        return network(blank)[0]

    def to_logits(features_ND: Tensor) -> Tensor:
        return features_ND @ network.fc.weight.cpu().T

    return Inception(resize, recipe, encode, to_logits, device, network)


def open_inception(path: str | None, device: str | torch.device, resize: str) -> Extractor:
    """Inception features [n, 2048] of images of one size.

    Arguments and errors are those of `open_inception_steps`.
    """
    steps = open_inception_steps(path, device, resize)

    def encode(images: Tensor) -> Tensor:
        resized_NCHW = RESIZES[resize](as_rgb(images).float(), SIDE)
        return steps.encode(network_values(resized_NCHW, resize))

    return Extractor("inception", 2048, steps.recipe, encode, device, steps.network)


def _load(path: str | None) -> tuple[Any, str]:
    """The network on the CPU, and the SHA-256 of its weights."""
    file = Path(path).expanduser() if path else _download_inception()
    if not file.is_file():
        raise MeasureError(
            f"no Inception weights at {file}; fetch {INCEPTION_URL} and give its path as inception:PATH"
        )
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        state = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
        # torch-fidelity unpickles its file without weights_only. It gets a copy of the tensors that were read
        # safely above.
        copy = io.BytesIO()
        torch.save(state, copy)
        copy.seek(0)
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=copy
        )
    except Exception as error:  # torch raises many kinds for files without weights
        raise MeasureError(
            f"{file} holds no weights of torch-fidelity's Inception ({type(error).__name__}); fetch "
            f"{INCEPTION_URL}"
        ) from error
    return network, sha256_of(state)


def _download_inception() -> Path:
    """torch.hub's cached copy of the weights, downloaded first if missing.

    The download fails after ten silent seconds.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rpartition("/")[2]
    if file.is_file():
        return file
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(INCEPTION_URL, str(file), hash_prefix="6726825d", progress=False)
    except (OSError, RuntimeError) as error:
        raise MeasureError(
            f"the Inception weights are unreachable ({error}); fetch {INCEPTION_URL} and give its path as "
            "inception:PATH"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return file
