"""Checks that difflab supports every setting in the configs of a pretrained base.

Diffusers ignores keys that a class does not know, and each pipeline applies only some settings of its
components. A base with a setting that difflab ignores would be trained and sampled as a different model.
Such a base is an error, which names the setting and is raised before anything runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from difflab.core.errors import ConfigError
from difflab.core.files import read_json
from difflab.core.suggest import closest
from difflab.models.pretrained import Base
from difflab.models.schedulers import SAME_LEVELS, scheduler_class, scheduler_names


def check_base(base: Base) -> None:
    """Raise ConfigError if a config of the base has a setting that would be ignored."""
    import diffusers

    architecture = base.architecture
    for folder, kind in ((architecture.component, architecture.backbone), ("vae", architecture.autoencoder)):
        _check_keys(base.path / folder / "config.json", getattr(diffusers, kind), architecture.aliases)
    architecture.check()
    flags = [key for key, value in base.index.items() if value is True and key not in architecture.flags]
    if flags:
        raise ConfigError(
            f"{base.path / 'model_index.json'}: '{flags[0]}' is true, which difflab does not support; use "
            "another base"
        )


def _hint(key: str, known: Iterable[str]) -> str:
    """The advice of an error message about a setting that diffusers would ignore."""
    for match in closest(key, known):
        return f"did you mean '{match}'?"
    return "update diffusers, or remove the key if it has no effect"


def _check_keys(file: Path, kind: Any, aliases: Sequence[str]) -> None:
    """Raise ConfigError if the config in `file` is not of class `kind`, or `kind` ignores a setting of it."""
    content = read_json(file)
    named = content.get("_class_name", kind.__name__)
    if named not in (kind.__name__, *aliases):
        raise ConfigError(
            f"{file} is the config of a {named}; difflab supports only {kind.__name__} here: use another base"
        )
    known = inspect.signature(kind.__init__).parameters
    for key, value in content.items():
        if key not in known and not key.startswith("_") and value not in (None, False):
            hint = _hint(key, known)
            raise ConfigError(
                f"{file}: {kind.__name__} of the installed diffusers ignores '{key}' ({value!r}); {hint}"
            )


# --------------------------------------------------------------------------------------------- noise schedule
@cache
def _settings_of_schedulers() -> frozenset[str]:
    """Every setting that some scheduler of the installed diffusers accepts."""
    known: set[str] = set()
    for name in scheduler_names():
        try:
            known |= inspect.signature(scheduler_class(name).__init__).parameters.keys()
        except ConfigError:  # the scheduler needs a package that is not installed
            continue
    return frozenset(known)


def scheduler_settings(base: Base) -> dict[str, Any]:
    """The base's scheduler config as its pipeline uses it.

    Raises ConfigError for a setting that no scheduler of diffusers accepts.
    """
    config, file = base.scheduler_config(), base.path / "scheduler" / "scheduler_config.json"
    known = _settings_of_schedulers()
    for key, value in config.items():
        if key not in known and not key.startswith("_") and value not in (None, False):
            hint = _hint(key, known)
            raise ConfigError(
                f"{file}: no scheduler of the installed diffusers accepts '{key}' ({value!r}); {hint}"
            )
    if base.kind == "StableDiffusionPipeline":  # the pipeline overwrites these two settings of old folders
        config |= {
            key: value for key, value in (("steps_offset", 1), ("clip_sample", False)) if key in config
        }
    return config


def training_process(base: Base, kind: Any) -> Any:
    """The forward process of training: a scheduler of class `kind` with the base's scheduler config.

    Raises ConfigError if the base's own scheduler class computes different noise levels from that config. The
    weights were then trained with a different process.
    """
    config, file = scheduler_settings(base), base.path / "scheduler" / "scheduler_config.json"
    named = config.get("_class_name")
    base_scheduler = None
    if named is not None and named != kind.__name__:
        try:
            base_scheduler = scheduler_class(named).from_config(config)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ConfigError(
                f"{file}: {named} cannot be created from its own config "
                f"({' '.join(str(error).split())[:160]})"
            ) from error
    noise = kind.from_config(config)
    if not hasattr(noise, "alphas_cumprod"):
        flow = "FlowMatch" in str(named) or config.get("prediction_type") == "flow_prediction"
        if base_scheduler is not None and not flow:
            raise ConfigError(
                f"{file}: {named} is not a flow-matching scheduler, but {base.kind} is trained by flow "
                "matching; use another base"
            )
        return noise
    if base_scheduler is None:
        return noise
    levels = getattr(base_scheduler, "alphas_cumprod", None)
    if levels is None:
        raise ConfigError(
            f"{file}: {named} has no alphas_cumprod, so the base was not trained with the process of "
            f"{kind.__name__}; use another base"
        )
    if (
        levels.shape != noise.alphas_cumprod.shape
        or float((levels - noise.alphas_cumprod).abs().max()) > SAME_LEVELS
    ):
        raise ConfigError(
            f"{file}: {named} computes other noise levels from this config than {kind.__name__}, which is "
            f"used for training{_cause(config)}; set the scheduler that the base was trained with"
        )
    return noise


def _cause(config: dict[str, Any]) -> str:
    """The settings that change the noise levels of some schedulers only, in brackets; "" = there are none."""
    keys = [key for key in ("rescale_betas_zero_snr", "snr_shift_scale", "trained_betas") if config.get(key)]
    if not keys:
        return ""
    settings = ", ".join(f"{key}: {config[key]}" for key in keys)
    return f" (only one of them supports {settings})"
