"""Functions that the policies of the stage sample share: checks of the config, and opening of models."""

from __future__ import annotations

from typing import Any

from difflab.core.errors import ConfigError
from difflab.models.registry import unguided_scale
from difflab.policies.interface import At

HOW_GUIDED = {
    "embedded": "is sampled without one: the guidance scale is an input of its network",
    "none": "is distilled and takes no guidance",
}
GUIDANCE = ("guidance_schedule", "guidance_by_generation")  # policies that set the guidance scale


def check_denoises(name: str, config: Any) -> None:
    """Raise ConfigError unless the family samples by denoising."""
    if not config.denoises:
        raise ConfigError(
            f"policies: {name} changes denoising, but the family {config.model.family} does not sample by "
            "denoising"
        )


def check_conditional(name: str, config: Any) -> None:
    """Raise ConfigError unless the model is conditioned on a class or a caption."""
    check_denoises(name, config)
    if not config.conditional:
        raise ConfigError(f"policies: {name} needs a conditional model; set model.conditional=true")


def check_guidance(name: str, config: Any) -> None:
    """Raise ConfigError unless the model can use classifier-free guidance."""
    check_conditional(name, config)
    if config.train.condition_dropout == 0 and not config.text:  # a text-to-image base has the empty prompt
        raise ConfigError(
            f"policies: {name} needs train.condition_dropout above 0: without it the model has no "
            "unconditional prediction"
        )


def check_guided(name: str, config: Any) -> None:
    """Raise ConfigError unless the samples use classifier-free guidance that changes them."""
    check_guidance(name, config)
    none = unguided_scale(config.model)
    if config.sample.guidance_scale == none and not any(
        other.policy in GUIDANCE for other in config.policies
    ):
        raise ConfigError(
            f"policies: {name} changes nothing at sample.guidance_scale={none:g}; set another scale, "
            f"or one of {', '.join(GUIDANCE)}"
        )


def check_unconditional(name: str, model: Any) -> None:
    """Raise ConfigError unless the base is sampled with classifier-free guidance."""
    if model.architecture.guidance != "classifier-free":
        raise ConfigError(
            f"policies: {name} needs an unconditional prediction, but model.base {model.base.path} "
            f"{HOW_GUIDED[model.architecture.guidance]}; remove the policy"
        )


def check_scale(name: str, model: Any) -> None:
    """Raise ConfigError if the base has no guidance scale."""
    if model.architecture.guidance == "none":
        raise ConfigError(
            f"policies: {name} sets the guidance scale, but model.base {model.base.path} "
            f"{HOW_GUIDED[model.architecture.guidance]}; remove the policy"
        )


def opened(at: At, which: str) -> Any:
    """Load another model, 'base' or 'previous' (see At.model), and prepare it for prediction."""
    model = at.model(which)
    model.prepare_sampling(at.config.sample, at.device)
    if at.config.text:
        model.vae = None  # this model decodes no images
    return model
