"""Aesthetic scores: a small head on CLIP features, in the manner of LAION."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from difflab.core.errors import MeasureError
from difflab.core.hashing import sha256_of
from difflab.features.extractor import Extractor

HAS_RELU = {(0,): False, (0, 2, 4, 6, 7): False, (0, 3, 6, 9, 11): True}
"""Indices of the linear layers in LAION's heads -> whether ReLU lies between them, or dropout alone."""


class AestheticHead:
    """An aesthetic score on L2-normalised CLIP features: one linear layer, or the MLP of
    improved-aesthetic-predictor (LAION).

    A head is trained on one CLIP model and is meaningless on another one of the same width. Scores with equal
    recipes are comparable. difflab ships no weights. Published heads are pickles (.pth). Convert them with
    ``safetensors.torch.save_file(torch.load(path, weights_only=True), ...)``.

    The score rises with saturation and contrast, as early collapse does: read it beside those two.

    Attributes:
        recipe: file name and SHA-256 of the head, its shape, and the recipe of the CLIP model.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]], relu: bool, recipe: dict[str, Any]) -> None:
        self._layers, self._relu, self.recipe = layers, relu, recipe

    @classmethod
    def load(cls, path: str | Path, backbone: Extractor) -> AestheticHead:
        """Read a head from a .safetensors or .npz file.

        The file holds ``weight`` [1, d] and ``bias`` [1], or ``layers.I.weight`` and ``layers.I.bias``.
        `backbone` is the open_clip extractor whose features the head scores. Raises MeasureError for other
        files (pickles are never read), other layers and a backbone of another width.
        """
        path = Path(path).expanduser()
        if path.suffix not in (".safetensors", ".npz"):
            raise MeasureError(
                f"{path} is neither .safetensors nor .npz; pickles can run code and are not read: convert "
                "it with safetensors"
            )
        try:
            state = load_file(path) if path.suffix == ".safetensors" else _load_npz(path)
        except (
            OSError,
            SafetensorError,
            ValueError,
            TypeError,
            AttributeError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise MeasureError(f"cannot read an aesthetic head from {path}: {error}") from error
        if not backbone.name.startswith("open_clip:"):
            raise MeasureError(
                f"an aesthetic head scores CLIP features; {backbone.name} makes others: open its backbone "
                "as open_clip:NAME/PRETRAINED"
            )
        layers, relu = _layers_of(state, path)
        if layers[0][0].shape[1] != backbone.dim:
            raise MeasureError(
                f"the head in {path} reads {layers[0][0].shape[1]} features, {backbone.name} makes "
                f"{backbone.dim}: open its own backbone"
            )
        shape = [int(weight.shape[1]) for weight, _ in layers] + [1]
        head = {
            "score": "aesthetic",
            "head": path.name,
            "sha256": sha256_of(state),
            "layers": shape,
            "relu": relu,
            "features": "L2-normalised",
        }
        return cls(layers, relu, {**head, "backbone": backbone.recipe})

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        """Scores float32 [n], 1 to 10 for LAION's heads.

        `features` [n, d] are L2-normalised here; they must be finite.
        """
        width = self._layers[0][0].shape[1]
        if features.ndim != 2 or features.shape[1] != width or not torch.isfinite(features).all():
            raise MeasureError(
                f"the aesthetic head reads finite features [n, {width}], got {tuple(features.shape)}"
            )
        x = F.normalize(features.detach().cpu().float(), dim=1)
        for index, (weight, bias) in enumerate(self._layers):
            if self._relu and index > 0:
                x = F.relu(x)
            x = F.linear(x, weight, bias)
        return x.squeeze(1)


def _load_npz(path: Path) -> dict[str, Tensor]:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _layers_of(state: dict[str, Tensor], path: Path) -> tuple[list[tuple[Tensor, Tensor]], bool]:
    """Weights and biases in order, and whether a ReLU lies between them."""
    prefixes: dict[int, str] = {}
    for name in state:
        match = re.fullmatch(r"(?:layers\.(\d+)\.)?weight", name)
        if match:
            prefixes[int(match[1] or 0)] = name.removesuffix("weight")
    order = sorted(prefixes)
    weights, biases = ([prefixes[index] + kind for index in order] for kind in ("weight", "bias"))
    if tuple(order) not in HAS_RELU or set(state) != {*weights, *biases}:
        raise MeasureError(
            f"{path} is not a known aesthetic head: it holds {', '.join(sorted(state))[:200]}; expected "
            "weight and bias, or LAION's layers.I"
        )
    layers = [
        (state[weight].float(), state[bias].float()) for weight, bias in zip(weights, biases, strict=True)
    ]
    widths = [weight.shape[0] for weight, _ in layers]
    valid = all(
        weight.ndim == 2
        and bias.shape == weight.shape[:1]
        and torch.isfinite(weight).all()
        and torch.isfinite(bias).all()
        for weight, bias in layers
    )
    if not valid or widths[-1] != 1 or widths[:-1] != [weight.shape[1] for weight, _ in layers[1:]]:
        shapes = [tuple(weight.shape) for weight, _ in layers]
        raise MeasureError(f"the layers in {path} do not lead from features to one finite score: {shapes}")
    return layers, HAS_RELU[tuple(order)]
