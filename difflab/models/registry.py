"""The class of each model family, by the name that ``model.family`` has in a config."""

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
    """The Family class of a config's ``model`` section.

    Its module is imported on demand, because the exact families do not need diffusers, which takes seconds to
    import.
    """
    module, name = FAMILIES[spec.family].split(":")
    return getattr(import_module(module), name)


def unguided_scale(spec: Any) -> float:
    """The largest guidance scale that means no guidance, for a config's ``model`` section.

    It is 0 for Z-Image and Krea 2, whose pipelines count from 0, and 1 for all others. Only the
    model_index.json of the base is read, and nothing is downloaded: 1 if the base is not on this machine.
    """
    if not hasattr(spec, "base"):
        return 1.0
    from difflab.models import pretrained

    return pretrained.unguided_scale(spec)
