"""Functions that policies on weights share: models of other generations, and interpolation of weights."""

from __future__ import annotations

from typing import Any

import torch

from difflab.core.errors import ConfigError
from difflab.models import family_of
from difflab.models.weights import trainable
from difflab.policies.interface import At

EXACT = {
    "gaussian": ("mean", "cov"),
    "categorical": ("p",),
}  # parameters of the exact families that can be averaged


def other(at: At, which: str) -> Any:
    """Load another model: 'base' or 'previous' as in At.model, or 'generation_0'."""
    if which != "generation_0":
        return at.model(which)
    return family_of(at.config.model).load(at.config.model, at.run.shape, at.run.gen(0) / "model")


def weights_of(model: Any, names: Any) -> dict[str, torch.Tensor]:
    """The weights of these names of a loaded denoiser."""
    parameters = dict(model.network().named_parameters())
    return {name: parameters[name].detach() for name in names}


def check_line(config: Any, policy: str, which: str) -> None:
    """Raise ConfigError if weights cannot be interpolated with those of `which` ('base' or 'previous')."""
    family, start = config.model.family, config.train.start_from
    if not config.denoises and family not in EXACT:
        raise ConfigError(
            f"policies: {policy} interpolates weights, but the family {family} has no weights that can be "
            f"interpolated; it works with denoising families and with {', '.join(EXACT)}"
        )
    if config.denoises and start == "scratch":
        raise ConfigError(
            f"policies: {policy} interpolates between weights, so both trainings must start from the same "
            "weights; set train.start_from to base or previous"
        )
    if config.model.trains_lora and not (which == "base" and start == "base"):
        raise ConfigError(
            f"policies: {policy} cannot interpolate LoRA layers of two generations: the sum of two layers of "
            f"rank {config.model.lora_rank} has a larger rank; interpolate with the base and set "
            "train.start_from=base, or set model.lora_rank=0"
        )


@torch.no_grad()
def towards(at: At, model: Any, which: str, share: float) -> None:
    """Add share * (w_other - w) to all trained weights w in place.

    Share 0 changes nothing, share 1 gives the other weights.

    LoRA layers of the base have B = 0, so scaling B by 1 - share is exact.
    """
    family = at.config.model.family
    if family in EXACT:
        target = other(at, which)
        for name in EXACT[family]:
            value = getattr(model, name)
            setattr(model, name, value + share * (getattr(target, name) - value))
        return
    trained = trainable(model.net)
    if at.config.model.trains_lora:
        for name, parameter in trained.items():
            if "lora_B" in name:
                parameter.mul_(1 - share)
        return
    for name, w in weights_of(other(at, which), trained).items():
        trained[name].lerp_(w.to(trained[name].device, trained[name].dtype), share)
