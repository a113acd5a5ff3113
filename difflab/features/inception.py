"""The Inception network of FID, as torch-fidelity ports it from TensorFlow."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.hashing import sha256_of
from difflab.features.extractor import Extractor, ready
from difflab.features.preprocess import as_rgb
from difflab.features.resize import RESIZES, known_resize

RELEASE = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"
INCEPTION_URL = f"{RELEASE}/weights-inception-2015-12-05-6726825d.pth"
RESIZE_NAMES = {
    "tf1": "TensorFlow 1 bilinear (torch-fidelity)",
    "torchmetrics": "bilinear antialias (torchmetrics)",
    "clean": "bicubic antialias (clean-fid)",
}
"""The text of each resize in the recipe. Stored numbers are compared by it."""


def open_inception(path: str | None, device: str | torch.device, resize: str) -> Extractor:
    """Inception features [n, 2048], from the file at `path` or from torch.hub's cache, which is filled by a
    download.

    Raises MeasureError where the weights cannot be had, or the file holds other ones.
    """
    known_resize(resize)
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
    network = ready(network, device)
    details = {
        "input": "299x299",
        "resize": RESIZE_NAMES[resize],
        "values": "[-1, 1]",
        "dtype": "float32",
        "sha256": sha256_of(state),
    }

    def encode(images: Tensor) -> Tensor:
        if resize == "tf1":
            return network(as_rgb(images))[0]
        x = (RESIZES[resize](as_rgb(images).float(), 299) - 128) / 128
        # The network takes only bytes and resizes them itself. The hook hands the resized images to its first
        # layer.
        with network.Conv2d_1a_3x3.register_forward_pre_hook(lambda layer, inputs: (x,)):
            return network(as_rgb(images[:, :, :1, :1]))[0]

    return Extractor("inception", 2048, details, encode, device, network)


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
