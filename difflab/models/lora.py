"""LoRA layers (Hu et al. 2106.09685) of a backbone: add, save in the layout of diffusers, load."""

from __future__ import annotations

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
    """Add layers of model.lora_rank to the backbone, a pure function of `seed`; they start as nothing.

    Raises ConfigError for an entry of model.lora_targets that no layer matches, or whose layers can have no
    LoRA.
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
                f"model.lora_targets {spec.lora_targets}: peft refuses these layers "
                f"({' '.join(str(error).split())[-300:]})"
            ) from error


def check_targets(backbone: Any, targets: list[str], base: str) -> None:
    """Raise ConfigError unless every target is the end of the name of a layer that has weights."""
    layers = dict(backbone.named_modules())
    for target in targets:
        matched = {
            name: layer for name, layer in layers.items() if name == target or name.endswith(f".{target}")
        }
        if not matched:
            ends = {".".join(name.split(".")[-2:]) for name in layers} | {
                name.rpartition(".")[2] for name in layers
            }
            near = closest(target, sorted(e for e in ends if e and not e.isdigit()), 3)
            hint = f"the nearest: {', '.join(near)}" if near else "see the names of `model.named_modules()`"
            raise ConfigError(f"model.lora_targets: no layer of {base} ends in '{target}'; {hint}")
        bare = [(name, layer) for name, layer in matched.items() if getattr(layer, "weight", None) is None]
        if bare:
            name, layer = bare[0]
            inner = [
                f"{target}.{child}"
                for child, part in layer.named_children()
                if getattr(part, "weight", None) is not None
            ]
            hint = f"name {inner[0]}" if inner else "name the layers inside it"
            raise ConfigError(
                f"model.lora_targets: '{target}' is a {type(layer).__name__} ({name}), which has no "
                f"weights of its own; {hint}"
            )


def save(backbone: Any, component: str, spec: Any, base: Base, folder: Path) -> None:
    """Write the layers in the layout that the base's pipeline reads, and base.json.

    base.json holds the name of the base, its pipeline class and the hash of its weights.
    """
    import diffusers
    from peft.utils import get_peft_model_state_dict

    # Layers of a network in channels-last order are not contiguous, and safetensors takes no others.
    layers = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(backbone).items()}
    pipeline = getattr(diffusers, base.kind)
    # Rank, scale and targets go into the file's metadata, in an order that is the same every time.
    settings = backbone.peft_config["default"].to_dict() | {"target_modules": sorted(spec.lora_targets)}
    named = {f"{component}_lora_layers": _named(layers), f"{component}_lora_adapter_metadata": settings}
    pipeline.save_lora_weights(folder, safe_serialization=True, **named)
    _sort_header(folder / FILE)
    write_json(
        folder / "base.json", {"base": spec.base, "weights": base.hash(component), "pipeline": base.kind}
    )


def _named(layers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The layers under diffusers' names where it has names for all of them, else under peft's.

    Diffusers has names for attention layers only, and its loader (0.42.1) reads a file of both kinds of names
    as one of peft's
    alone: the attention layers would be dropped without a word.
    """
    from diffusers.utils import convert_state_dict_to_diffusers

    converted = convert_state_dict_to_diffusers(layers)
    return layers if converted.keys() & layers.keys() else converted


def load(backbone: Any, component: str, spec: Any, base: Base, folder: Path) -> None:
    """Read what `save` wrote into the layers of `backbone`.

    Raises StoreError: another base, a damaged file, other layers.
    """
    from peft import set_peft_model_state_dict

    record = read_json(folder / "base.json")
    if record["weights"] != base.hash(component):
        raise StoreError(
            f"{folder} was trained on other weights than those of {spec.base}; put the base back, or start "
            "anew with --out"
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
    missing = [k for k in result.missing_keys if "lora" in k]
    if missing or result.unexpected_keys:
        raise StoreError(
            f"{folder}: LoRA layers do not match model.lora_rank and lora_targets "
            f"({(missing + result.unexpected_keys)[0]})"
        )


def layers_of(folder: Path, component: str, base: Base) -> dict[str, torch.Tensor]:
    """The layers in a folder that `save` wrote, by peft's names, as the base's pipeline reads the file.

    Raises StoreError.
    """
    import diffusers
    from diffusers.utils import convert_unet_state_dict_to_peft

    try:
        state = getattr(diffusers, base.kind).lora_state_dict(folder / FILE, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise StoreError(
            f"{folder} holds no readable LoRA ({' '.join(str(error).split())[:120]}); delete it and run "
            "the same command again"
        ) from error
    state = state[0] if isinstance(state, tuple) else state
    return convert_unet_state_dict_to_peft(
        {k.removeprefix(f"{component}."): v for k, v in state.items() if k.startswith(component)}
    )


def check_saved(backbone: Any, component: str, base: Base, folder: Path) -> None:
    """Raise StoreError unless every layer of `backbone` can be read back from `folder`.

    `load` must read it bit for bit, and the base's own pipeline must read it too.

    What the pipeline would load is seen on a copy of the backbone without memory.
    """
    import diffusers
    from accelerate import init_empty_weights
    from peft.utils import get_peft_model_state_dict

    wanted, found = get_peft_model_state_dict(backbone), layers_of(folder, component, base)
    lost = [
        name
        for name, tensor in wanted.items()
        if name not in found or not torch.equal(found[name], tensor.cpu())
    ]
    with init_empty_weights(), torch.random.fork_rng(devices=[]):
        empty = type(backbone).from_config(backbone.config)
        pipeline = getattr(diffusers, base.kind)
        state, *more = pipeline.lora_state_dict(
            folder / FILE, local_files_only=True, return_lora_metadata=True
        )
        settings = {
            "adapter_name": "saved",
            "metadata": more[-1],
            "low_cpu_mem_usage": True,
            component: empty,
        }
        if len(more) == 2:
            settings["network_alphas"] = more[0]
        getattr(pipeline, f"load_lora_into_{component}")(state, **settings)
        loaded = get_peft_model_state_dict(empty, adapter_name="saved")
    lost += [name for name in wanted if name not in loaded]
    if lost:
        raise StoreError(
            f"{len(set(lost))} of {len(wanted)} LoRA tensors do not survive saving in diffusers' layout, "
            f"the first: {lost[0]}; change model.lora_targets"
        )


def _sort_header(file: Path) -> None:
    """Sort the metadata of a safetensors file, so that equal weights give equal files.

    The library writes the metadata in random order.
    """
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    text = json.dumps(
        {"__metadata__": dict(sorted(header.pop("__metadata__", {}).items())), **header}
    ).encode()
    text += b" " * (-len(text) % 8)
    write_bytes(file, len(text).to_bytes(8, "little") + text + content[end:])
