"""What the policies on weights share: other models of the chain, and the line between two of them."""

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
}  # numbers of the exact families that may be averaged


def other(at: At, which: str) -> Any:
    """'base' and 'previous' as in At.model, or 'generation_0'."""
    if which != "generation_0":
        return at.model(which)
    return family_of(at.config.model).load(at.config.model, at.run.shape, at.run.gen(0) / "model")


def weights_of(model: Any, names: Any) -> dict[str, torch.Tensor]:
    """Weights of a loaded denoiser by name."""
    own = dict(model.network().named_parameters())
    return {name: own[name].detach() for name in names}


def check_line(config: Any, policy: str, which: str) -> None:
    """Raise ConfigError where there is no straight line from a generation's weights to those of `which` ('base', 'previous')."""
    family, start = config.model.family, config.train.start_from
    if not config.denoises and family not in EXACT:
        raise ConfigError(
            f"policies: {policy} moves weights, and those of the family {family} cannot be moved; it works with denoising families, {', '.join(EXACT)}"
        )
    if config.denoises and start == "scratch":
        raise ConfigError(
            f"policies: {policy} goes along the line between weights that share a start; set train.start_from to base or previous"
        )
    if config.model.trains_lora and not (which == "base" and start == "base"):
        raise ConfigError(
            f"policies: {policy} cannot mix LoRA layers of two generations: the sum of two of rank {config.model.lora_rank} has a larger rank; "
            "lead to the base with train.start_from=base, or set model.lora_rank=0"
        )


@torch.no_grad()
def towards(at: At, model: Any, which: str, share: float) -> None:
    """w += share * (w_other - w) in place, for all that is trained; 0 = stay, 1 = the other's weights, beyond 1 = past them.

    Of LoRA layers the base is where B is 0, so the product B A is scaled by 1 - share, exactly.
    """
    family = at.config.model.family
    if family in EXACT:
        there = other(at, which)
        for name in EXACT[family]:
            own = getattr(model, name)
            setattr(model, name, own + share * (getattr(there, name) - own))
        return
    own = trainable(model.net)
    if at.config.model.trains_lora:
        for name, p in own.items():
            if "lora_B" in name:
                p.mul_(1 - share)
        return
    for name, w in weights_of(other(at, which), own).items():
        own[name].lerp_(w.to(own[name].device, own[name].dtype), share)
