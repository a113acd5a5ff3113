"""Model families, one file each."""

from __future__ import annotations

from importlib import import_module
from typing import Any

FAMILIES = {
    "gaussian": "difflab.models.gaussian:Gaussian",
    "mixture": "difflab.models.mixture:Mixture",
    "categorical": "difflab.models.categorical:Categorical",
    "memoriser": "difflab.models.memoriser:Memoriser",
    "pixel-mlp": "difflab.models.pixel_mlp:PixelMLP",
    "pixel-unet": "difflab.models.pixel_unet:PixelUNet",
    "stable-diffusion": "difflab.models.stable_diffusion:StableDiffusion",
    "flow": "difflab.models.flow:Flow",
}


def family_of(spec: Any) -> Any:
    """The class behind a config's ``model`` section. Imported on demand: the exact families need no diffusers."""
    module, name = FAMILIES[spec.family].split(":")
    return getattr(import_module(module), name)
