"""A feature extractor from a function that the user wrote."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from difflab.core.errors import MeasureError
from difflab.features.extractor import BATCH, Extractor


def open_python_function(spec: str, device: str | torch.device) -> Extractor:
    """The extractor of a user's function from uint8 [n, H, W, C] to floats [n, d].

    The hash of the source file is part of the recipe. If the function reads other files, such as weights, its
    attribute `recipe`, a dict, should describe them; the dict becomes part of the recipe.

    Args:
        spec: FILE.py:NAME or MODULE:NAME.
        device: the device of the images that the function is called with.

    Raises MeasureError if the function cannot be loaded or does not return [n, d].
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise MeasureError(
            f"python:{spec} names no function; write python:FILE.py:NAME or python:PACKAGE.MODULE:NAME"
        )
    path = Path(place).expanduser()
    if place.endswith(".py") and not path.is_file():
        raise MeasureError(f"python:{spec}: {path} does not exist; the current folder is {Path.cwd()}")
    try:
        if place.endswith(".py"):
            module_spec = importlib.util.spec_from_file_location(path.stem, path)
            assert module_spec is not None and module_spec.loader is not None
            module = importlib.util.module_from_spec(module_spec)
            module_spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        function = getattr(module, name)
        probe = torch.as_tensor(function(torch.zeros(BATCH, 32, 32, 3, dtype=torch.uint8, device=device)))
    except Exception as error:  # whatever a user's code may raise
        raise MeasureError(
            f"python:{spec}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    if probe.ndim != 2 or len(probe) != BATCH:
        raise MeasureError(
            f"python:{spec} gave {tuple(probe.shape)} for {BATCH} images; a feature extractor gives [n, d]"
        )

    def encode(images_NCHW: Tensor) -> Tensor:
        return torch.as_tensor(function(images_NCHW.permute(0, 2, 3, 1).contiguous()))

    source = Path(module.__file__ or "").read_bytes()
    recipe = {
        "input": "own size",
        "source_sha256": hashlib.sha256(source).hexdigest(),
        **getattr(function, "recipe", {}),
    }
    return Extractor(f"python:{path.stem}:{name}", probe.shape[1], recipe, encode, device)
