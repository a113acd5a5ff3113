"""Adds LoRA layers (Hu et al. 2106.09685) to a backbone, saves and loads them in the layout of diffusers."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch

from difflab.core.errors import ConfigError, StoreError
from difflab.core.files import read_json, write_bytes, write_json
from difflab.core.suggest import closest
from difflab.models.pretrained import Base

FILE = "pytorch_lora_weights.safetensors"


def add(backbone: Any, spec: Any, seed: int) -> None:
    """Add LoRA layers of rank model.lora_rank to the backbone.

    Their weights are a pure function of `seed`. At first they do not change the output of the backbone.

    Raises ConfigError if no layer matches an entry of model.lora_targets, or if peft does not support the
    layers that match.
    """
    from peft import LoraConfig

    check_targets(backbone, spec.lora_targets, spec.base)
    rank = spec.lora_rank
    alpha = rank if spec.lora_alpha is None else spec.lora_alpha
    settings = LoraConfig(
        r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=spec.lora_targets
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            backbone.add_adapter(settings)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ConfigError(
                f"model.lora_targets {spec.lora_targets}: peft does not support these layers "
                f"({' '.join(str(error).split())[-300:]})"
            ) from error


def check_targets(backbone: Any, targets: list[str], base: str) -> None:
    """Raise ConfigError unless each target is the last part of the name of a layer that has weights."""
    layers = dict(backbone.named_modules())
    for target in targets:
        matched = {
            name: layer for name, layer in layers.items() if name == target or name.endswith(f".{target}")
        }
        if not matched:
            raise ConfigError(
                f"model.lora_targets: no layer of {base} has a name that ends in '{target}'; "
                f"{_nearest_names(target, list(layers))}"
            )
        without_weights = [name for name, layer in matched.items() if not _has_weight(layer)]
        if without_weights:
            name = without_weights[0]
            layer = layers[name]
            inner = [f"{target}.{child}" for child, part in layer.named_children() if _has_weight(part)]
            hint = f"use {inner[0]}" if inner else "use the names of the layers inside it"
            raise ConfigError(
                f"model.lora_targets: '{target}' is a {type(layer).__name__} ({name}), which has no "
                f"weights of its own; {hint}"
            )


def _has_weight(layer: Any) -> bool:
    return getattr(layer, "weight", None) is not None


def _nearest_names(target: str, names: list[str]) -> str:
    """The advice of an error message about a target that matches none of the layers `names`."""
    ends = {".".join(name.split(".")[-2:]) for name in names} | {name.rpartition(".")[2] for name in names}
    nearest = closest(target, sorted(end for end in ends if end and not end.isdigit()), 3)
    if nearest:
        return f"the nearest names: {', '.join(nearest)}"
    return "`model.named_modules()` lists all names"


def save(backbone: Any, component: str, spec: Any, base: Base, folder: Path) -> None:
    """Write the layers in the layout that the base's pipeline reads, and the file base.json.

    base.json contains the name of the base, its pipeline class, the hash of its weights and the LoRA in them.
    """
    import diffusers
    from peft.utils import get_peft_model_state_dict

    # safetensors requires contiguous tensors. Weights in channels-last order are not contiguous.
    layers = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(backbone).items()}
    pipeline = getattr(diffusers, base.kind)
    # The file's metadata contains rank, scale and targets, always in the same order.
    settings = backbone.peft_config["default"].to_dict() | {"target_modules": sorted(spec.lora_targets)}
    named = {f"{component}_lora_layers": _named(layers), f"{component}_lora_adapter_metadata": settings}
    pipeline.save_lora_weights(folder, safe_serialization=True, **named)
    _sort_header(folder / FILE)
    record = {"base": spec.base, "weights": base.hash(component), "pipeline": base.kind}
    if spec.base_lora is not None:  # its layers are in the weights of the base
        record |= {"base_lora": spec.base_lora, "base_lora_scale": spec.base_lora_scale}
    write_json(folder / "base.json", record)


def _named(layers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the layers from peft's to diffusers' names, if diffusers has names for all of them.

    Diffusers has names for attention layers only. Its loader (0.42.1) reads a file with both kinds of names
    as if all names were those of peft, and ignores the attention layers without a warning.
    """
    from diffusers.utils import convert_state_dict_to_diffusers

    converted = convert_state_dict_to_diffusers(layers)
    return layers if converted.keys() & layers.keys() else converted


def load(backbone: Any, component: str, spec: Any, base: Base, folder: Path) -> None:
    """Load the layers that `save` wrote into `backbone`.

    Raises StoreError if they were trained on another base, do not match the layers of `backbone`, or if the
    file is damaged.
    """
    from peft import set_peft_model_state_dict

    record = read_json(folder / "base.json")
    if record["weights"] != base.hash(component):
        raise StoreError(
            f"{folder} was trained on other weights than those of {spec.base}; restore the base, or start a "
            "new run with --out"
        )
    try:
        result: Any = set_peft_model_state_dict(
            backbone, layers_of(folder, component, base), adapter_name="default"
        )
    except RuntimeError as error:
        raise StoreError(
            f"{folder}: LoRA layers do not match model.lora_rank and lora_targets "
            f"({' '.join(str(error).split())[:160]})"
        ) from error
    missing = [key for key in result.missing_keys if "lora" in key]
    if missing or result.unexpected_keys:
        raise StoreError(
            f"{folder}: LoRA layers do not match model.lora_rank and lora_targets "
            f"({(missing + result.unexpected_keys)[0]})"
        )


def layers_of(folder: Path, component: str, base: Base) -> dict[str, torch.Tensor]:
    """The layers in a folder that `save` wrote, by the names of peft.

    The file is read by the base's pipeline class. Raises StoreError if it is damaged.
    """
    import diffusers
    from diffusers.utils import convert_unet_state_dict_to_peft

    try:
        state = getattr(diffusers, base.kind).lora_state_dict(folder / FILE, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise StoreError(
            f"{folder} contains no readable LoRA ({' '.join(str(error).split())[:120]}); delete it and run "
            "the same command again"
        ) from error
    state = state[0] if isinstance(state, tuple) else state
    of_component = {
        name.removeprefix(f"{component}."): tensor
        for name, tensor in state.items()
        if name.startswith(component)
    }
    return convert_unet_state_dict_to_peft(of_component)


def check_saved(backbone: Any, component: str, base: Base, folder: Path) -> None:
    """Raise StoreError unless every LoRA layer of `backbone` can be read back from `folder`.

    The saved tensors must be equal bit for bit, and the base's own pipeline must load all of them. The
    pipeline loads them into a copy of the backbone on the meta device, which needs no memory.
    """
    import diffusers
    from accelerate import init_empty_weights
    from peft.utils import get_peft_model_state_dict

    trained, saved = get_peft_model_state_dict(backbone), layers_of(folder, component, base)
    lost = [
        name
        for name, tensor in trained.items()
        if name not in saved or not torch.equal(saved[name], tensor.cpu())
    ]
    with init_empty_weights(), torch.random.fork_rng(devices=[]):
        empty = type(backbone).from_config(backbone.config)
        pipeline = getattr(diffusers, base.kind)
        state, *alphas_and_metadata = pipeline.lora_state_dict(
            folder / FILE, local_files_only=True, return_lora_metadata=True
        )
        settings = {
            "adapter_name": "saved",
            "metadata": alphas_and_metadata[-1],
            "low_cpu_mem_usage": True,
            component: empty,
        }
        load_into = getattr(pipeline, f"load_lora_into_{component}")
        if len(alphas_and_metadata) == 2:
            settings["network_alphas"] = alphas_and_metadata[0]
        elif (
            "network_alphas" in inspect.signature(load_into).parameters
        ):  # Flux.1 returns them on demand only
            settings["network_alphas"] = None
        load_into(state, **settings)
        loaded = get_peft_model_state_dict(empty, adapter_name="saved")
    lost += [name for name in trained if name not in loaded]
    if lost:
        raise StoreError(
            f"{len(set(lost))} of {len(trained)} LoRA tensors are lost or changed when they are saved in "
            f"diffusers' layout, the first is {lost[0]}; change model.lora_targets"
        )


def _sort_header(file: Path) -> None:
    """Sort the metadata of a safetensors file, so that equal weights give equal files.

    The safetensors library writes the metadata in random order.
    """
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    text = json.dumps(
        {"__metadata__": dict(sorted(header.pop("__metadata__", {}).items())), **header}
    ).encode()
    text += b" " * (-len(text) % 8)
    write_bytes(file, len(text).to_bytes(8, "little") + text + content[end:])
