"""Open a feature extractor by its spec, the string that `measure.extractors` of a config and `--extractors`
take.

    pixels                                the pixels themselves, divided by 255
    texture                               eight statistics of each image, no weights (see texture.py)
    watermark:KEY[,chip=N][,after=CHANGE] the watermark of a key (see watermark.py)
    artefacts                             four more: palette, banding, blocking, ringing (see artefacts.py)
    fitted                                a small CNN trained on the run's real train set (see fitted.py)
    efficientnet-lite0                    ImageNet features from a pip wheel: needs no hub
    inception | inception:PATH            torch-fidelity's port of the TensorFlow FID network
    open_clip:tiny-clip                   difflab's own small CLIP, for emoji, digits and their names
    open_clip:NAME/PRETRAINED | PATH      the image tower of any open_clip model
    timm:NAME[@SIDE] | PATH               any timm network without its head, DINOv2 for example:
                                          timm:vit_large_patch14_dinov2.lvd142m@224
    python:FILE.py:NAME                   a function of yours from uint8 [n, H, W, C] to floats [n, d];
                                          also python:PACKAGE.MODULE:NAME

Published numbers exist only for inception and for published open_clip weights. Compare with them only where
weights and resize are the same: the recipe states both. Reading weights runs no code from the file
(safetensors, or torch.load with weights_only). Optional libraries are imported when an extractor first needs
them.
"""

from __future__ import annotations

from pathlib import Path

import torch

from difflab.core.errors import MeasureError
from difflab.core.precision import bf16_is_native
from difflab.core.rows import KEYED, STATISTICS
from difflab.core.suggest import nearest
from difflab.features.artefacts import open_artefacts
from difflab.features.extractor import Extractor, open_pixels
from difflab.features.fitted import read_fitted
from difflab.features.inception import open_inception
from difflab.features.open_clip import open_open_clip
from difflab.features.python_function import open_python_function
from difflab.features.texture import open_texture
from difflab.features.timm import open_efficientnet_lite0, open_timm
from difflab.features.watermark import open_watermark, parse_reading

SPECS = (
    "pixels",
    *STATISTICS,
    *KEYED,
    "fitted",
    "efficientnet-lite0",
    "inception",
    "open_clip",
    "timm",
    "python",
)
WITH_ARGUMENT = (*KEYED, "inception", "open_clip", "timm", "python")
"""Extractors whose spec goes on after a colon."""


PRECISIONS = ("float32", "bf16", "auto")
BF16_IF_NATIVE = ("efficientnet-lite0", "inception")
"""Networks that 'auto' runs in bfloat16: those on whose measures its effect was tried
(benchmarks/README.md)."""


def open_extractor(
    spec: str,
    fitted: Path | None = None,
    device: str | torch.device = "cpu",
    resize: str | None = None,
    precision: str = "float32",
) -> Extractor:
    """Open the extractor that `spec` names (see the head of this file).

    Args:
        spec: name, with an argument after a colon where the extractor takes one.
        fitted: the file that `fit_extractor` wrote, for the spec 'fitted'.
        device: where the network runs; features are always returned on the CPU.
        resize: how `inception` resizes images to 299 pixels, a key of `difflab.features.resize.RESIZES`; None
            = 'tf1', as torch-fidelity does. Another resize gives another recipe, another key and other
            numbers.
        precision: of products in the network. 'bf16' gives another recipe; 'auto' is 'bf16' for
            efficientnet-lite0 and inception on a CPU with instructions for it, else 'float32'.

    Raises MeasureError for an unknown name, with the nearest one, and for weights that cannot be loaded, with
    how to get them.

    >>> open_extractor("pixels")(torch.full((1, 2, 2, 1), 255, dtype=torch.uint8))
    tensor([[1., 1., 1., 1.]])
    """
    # Networks draw initial weights before they load theirs. The fork keeps that out of the caller's random
    # stream.
    known_precision(precision)
    with torch.random.fork_rng(devices=[]):
        extractor = _open(spec, fitted, device, resize)
    gains = spec.partition(":")[0] in BF16_IF_NATIVE and bf16_is_native(device)
    return extractor.in_bf16() if precision == "bf16" or (precision == "auto" and gains) else extractor


def _open(spec: str, fitted: Path | None, device: str | torch.device, resize: str | None) -> Extractor:
    known_extractor(spec)
    name, _, argument = spec.partition(":")
    if resize is not None and name != "inception":
        raise MeasureError(f"only inception takes a choice of resize, {name} has its own: leave resize out")
    if name == "open_clip":
        return open_open_clip(argument, device)
    if name == "timm":
        return open_timm(argument, device)
    if name == "watermark":
        return open_watermark(argument)
    if name == "python":
        return open_python_function(argument, device)
    if name == "inception":
        return open_inception(argument or None, device, resize or "tf1")
    if name == "fitted":
        return read_fitted(fitted, device)
    if name == "efficientnet-lite0":
        return open_efficientnet_lite0(device)
    return {"texture": open_texture, "artefacts": open_artefacts, "pixels": open_pixels}[name]()


def known_precision(precision: str) -> None:
    """Raise MeasureError, with the nearest name, unless `precision` is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise MeasureError(f"unknown precision '{precision}'; {nearest(precision, PRECISIONS)}")


def known_extractor(spec: str) -> None:
    """Raise MeasureError, with the nearest name, unless `open_extractor` takes specs of this form.

    Loads nothing.
    """
    name = spec.partition(":")[0]
    if (name if name in WITH_ARGUMENT else spec) not in SPECS:
        raise MeasureError(f"unknown extractor '{spec}'; {nearest(name, SPECS)}")
    if name == "watermark":
        parse_reading(spec.partition(":")[2])
