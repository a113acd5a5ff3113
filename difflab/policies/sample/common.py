"""What the policies of the stage sample share: what they need of a config, and other models to ask."""

from __future__ import annotations

from typing import Any

from difflab.core.errors import ConfigError
from difflab.policies.interface import At

GUIDANCE = ("guidance_schedule", "guidance_by_generation")  # policies that set the scale


def check_denoises(name: str, config: Any) -> None:
    """Raise ConfigError unless images are made by removing noise."""
    if not config.denoises:
        raise ConfigError(
            f"policies: {name} changes how noise is removed, which the family {config.model.family} does not do"
        )


def check_conditional(name: str, config: Any) -> None:
    """Raise ConfigError unless the model is told a class or a caption."""
    check_denoises(name, config)
    if not config.conditional:
        raise ConfigError(f"policies: {name} needs a conditional model; set model.conditional=true")


def check_guidance(name: str, config: Any) -> None:
    """Raise ConfigError unless the model can be guided."""
    check_conditional(name, config)
    if config.train.condition_dropout == 0 and not config.text:  # a text base knows the empty prompt
        raise ConfigError(
            f"policies: {name} needs train.condition_dropout above 0: without it the model has no unconditional prediction"
        )


def check_guided(name: str, config: Any) -> None:
    """Raise ConfigError where the model could be guided but is not."""
    check_guidance(name, config)
    if config.sample.guidance_scale == 1 and not any(own.policy in GUIDANCE for own in config.policies):
        raise ConfigError(
            f"policies: {name} changes nothing at sample.guidance_scale=1; set another scale, or one of {', '.join(GUIDANCE)}"
        )


def opened(at: At, which: str) -> Any:
    """Another model, 'base' or 'previous', as At.model has it, ready to predict."""
    model = at.model(which)
    model.prepare_sampling(at.config.sample, at.device)
    if at.config.text:
        model.vae = None  # nothing is decoded by it
    return model
