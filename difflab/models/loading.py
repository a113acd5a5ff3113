"""Loads a component of a diffusers folder. Missing weights are an error and never replaced by random ones."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from difflab.core.errors import StoreError
from difflab.core.files import read_json


def load_model(
    kind: Any, folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None
) -> Any:
    """Load a diffusers or transformers model of class `kind` from its folder.

    Raises StoreError if a file is damaged or the weights do not match the config.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    _check_type(kind, folder)
    try:
        model, info = kind.from_pretrained(
            folder,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            torch_dtype=dtype,
            low_cpu_mem_usage=_only_with_low_memory(kind),
        )
    except Exception as error:  # damaged files raise errors of many types
        raise StoreError(
            f"{folder} holds no readable model ({' '.join(str(error).split())[:160]}); fetch or make it again"
        ) from error
    wrong = {
        name: sorted(keys)
        for name, keys in info.items()
        if keys and name in ("missing_keys", "mismatched_keys", "error_msgs")
    }
    if wrong:  # the library would replace missing weights by random ones
        raise StoreError(
            f"{folder}: weights do not match its config: {str(wrong)[:200]}; fetch or make it again"
        )
    return model.eval()


def _only_with_low_memory(kind: Any) -> bool:
    """Whether diffusers loads a class with low_cpu_mem_usage only, because it keeps layers in float32."""
    return kind.__module__.startswith("diffusers.") and bool(kind._keep_in_fp32_modules)


def _check_type(kind: Any, folder: Path) -> None:
    """Raise StoreError if `kind` is a class of transformers and the config in `folder` is of another one."""
    own, config = getattr(kind, "config_class", None), {}
    if own is None:
        return
    with suppress(StoreError):  # a damaged file is found when the model is loaded
        config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        return
    named = config.get("model_type") or own.model_type
    if named != own.model_type and own.base_config_key not in config:
        raise StoreError(
            f"{folder} holds a model of type {named}, but model_index.json names a {kind.__name__}, which is "
            f"of type {own.model_type}; fetch it again"
        )
