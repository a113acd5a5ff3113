"""Adds the layers of a LoRA file to the weights of a base (Hu et al. 2106.09685, sec. 4.1).

A layer has the weights W + scale (alpha / r) B A afterwards. The file has the keys of diffusers, peft or
kohya; diffusers has the tables between these names. Every layer of the file must match a layer of the base.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from difflab.core.errors import ConfigError
from difflab.core.files import read_json
from difflab.models.pretrained import Base
from difflab.models.single_file import NETWORKS, State, check_ending, quiet, save

PEFT = "base_model.model."
"""The prefix of all keys in a file that peft itself has written. Their alpha is in adapter_config.json."""
PREFIXED = ("unet.", "transformer.", "text_encoder", "lora_", "diffusion_model.", "model.diffusion_model.")
"""The beginnings of keys that name the component they belong to."""
OTHERS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "oft_": "OFT",
    ".diff": "weights that are added directly",
}
"""Words in the keys of adapters that are not LoRA -> what they are."""
METADATA = "lora_adapter_metadata"


@dataclass(frozen=True)
class Layer:
    """The LoRA of one layer of the base.

    Attributes:
        component: the component of the base.
        name: the name of the layer in it.
        down: A, [r, ...].
        up: B, [..., r] or [..., r, 1, 1].
        factor: alpha / r.
    """

    component: str
    name: str
    down: torch.Tensor
    up: torch.Tensor
    factor: float

    def delta(self) -> torch.Tensor:
        """The change of the layer's weights at scale 1, as a matrix [outputs, inputs]."""
        return self.factor * (self.up.flatten(1).float() @ self.down.flatten(1).float())


def fuse(base: Base, file: Path, scale: float, folder: Path) -> None:
    """Write the base with the LoRA in `file` to the diffusers folder `folder`.

    The changed components are float32. Raises ConfigError if the file cannot be read, is no LoRA, has a layer
    that matches none of the base, or changes no weights.
    """
    layers = read(base, file)
    by_component: dict[str, list[Layer]] = {}
    for layer in layers:
        by_component.setdefault(layer.component, []).append(layer)
    changed = 0
    for component, its_layers in by_component.items():
        module = _load(base, component)
        changed += sum(_add(module, layer, scale, file, base) for layer in its_layers)
        save(module, base, component, folder)
    if not changed:
        raise ConfigError(
            f"model.base_lora {file} changes no weights: its layers are 0, or model.base_lora_scale is"
        )
    base.copy_to(folder, leave=tuple(by_component))


def _load(base: Base, component: str) -> Any:
    import diffusers
    import transformers

    library, kind = base.index[component]
    return base.load(
        component, getattr({"diffusers": diffusers, "transformers": transformers}[library], kind)
    )


def _add(module: Any, layer: Layer, scale: float, file: Path, base: Base) -> bool:
    """Add one layer to the weights of `module`. Returns whether that changes them."""
    weight = module.get_parameter(f"{layer.name}.weight")
    delta = layer.delta()
    if delta.shape != weight.flatten(1).shape:
        raise ConfigError(
            f"model.base_lora {file}: its layer {layer.name} is for weights {tuple(delta.shape)}, those of "
            f"{base.path} are {tuple(weight.flatten(1).shape)}; it was made for another base"
        )
    before = weight.detach().clone()
    with torch.no_grad():
        weight += scale * delta.view(weight.shape)
    return not torch.equal(weight, before)


# ------------------------------------------------------------------------------------------------- the file
def read(base: Base, file: Path) -> list[Layer]:
    """The layers of a LoRA file, with the names of the base's layers. Raises ConfigError, see `fuse`."""
    state, metadata = _read(file)
    for word, kind in OTHERS.items():
        if any(word in key for key in state):
            raise ConfigError(f"model.base_lora {file} holds {kind}, which difflab does not add; use a LoRA")
    network = next(name for name in base.components if name in NETWORKS)
    if any(key.startswith(PEFT) for key in state):
        state = _of_peft(state, file)
    if not any(key.startswith(PREFIXED) for key in state):
        state = {f"{network}.{key}": tensor for key, tensor in state.items()}
    named = _renamed(base, network, _with_alpha(state), file)
    pairs = _pairs(named, file)
    names = {component: _weighted(base, component) for component, _ in pairs}
    layers, unknown = [], []
    for (component, name), (down, up) in pairs.items():
        # Newer versions of transformers have the layers of CLIPTextModel without this prefix.
        for its_name in (name, name.removeprefix("text_model.")):
            if its_name in names[component]:
                factor = _factor(metadata, component, name, len(down))
                layers.append(Layer(component, its_name, down, up, factor))
                break
        else:
            unknown.append(f"{component}.{name}")
    if unknown:
        raise ConfigError(
            f"model.base_lora {file}: {len(unknown)} of its {len(pairs)} layers match no layer of "
            f"{base.path}, the first is {unknown[0]}; it was made for another base"
        )
    return layers


def _read(file: Path) -> tuple[State, dict[str, Any]]:
    """The tensors of a LoRA file, and the settings of its layers that diffusers writes into its metadata."""
    check_ending(file)
    if not file.is_file():
        raise ConfigError(f"model.base_lora {file} does not exist; give the path of a .safetensors file")
    try:
        with safe_open(file, "pt") as content:
            state = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 (not a dict)
            metadata = json.loads((content.metadata() or {}).get(METADATA, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(
            f"model.base_lora {file} is damaged or half-downloaded ({error}); fetch it again"
        ) from error
    if not any("lora" in key for key in state):
        raise ConfigError(f"model.base_lora {file} is no LoRA (its first key is '{min(state, default='')}')")
    return state, metadata


def _of_peft(state: State, file: Path) -> State:
    """The tensors of a file of peft without its prefix. B is multiplied by alpha / r."""
    path = file.with_name("adapter_config.json")
    if not path.is_file():
        raise ConfigError(
            f"model.base_lora {file} was written by peft; put its adapter_config.json (with alpha) beside it"
        )
    settings = read_json(path)
    patterns = [key for key in ("alpha_pattern", "rank_pattern", "use_rslora") if settings.get(key)]
    if patterns:
        raise ConfigError(f"model.base_lora {file}: difflab does not read {patterns[0]} of {path.name}")
    factor = settings["lora_alpha"] / settings["r"]
    plain = {key.removeprefix(PEFT): tensor for key, tensor in state.items()}
    return {key: tensor * factor if ".lora_B." in key else tensor for key, tensor in plain.items()}


def _with_alpha(state: State) -> State:
    """The tensors with the alphas of kohya's layout in them: B is multiplied by alpha / r.

    The converter of diffusers passes the alphas on under names that some of its loaders do not find.
    """
    out = {key: tensor for key, tensor in state.items() if not key.endswith(".alpha")}
    for key, alpha in state.items():
        name = key.removesuffix(".alpha")
        for down, up in (("lora_down", "lora_up"), ("lora_A", "lora_B")):
            a, b = f"{name}.{down}.weight", f"{name}.{up}.weight"
            if name != key and a in out and b in out:
                out[b] = out[b].float() * (float(alpha) / len(out[a]))
    return out


def _renamed(base: Base, network: str, state: State, file: Path) -> State:
    """The tensors with the names of diffusers' components and layers, as the pipeline's loader has them."""
    import diffusers

    pipeline = getattr(diffusers, base.kind)
    if not hasattr(pipeline, "lora_state_dict"):
        raise ConfigError(f"model.base_lora: diffusers loads no LoRA into a {base.kind}; remove it")
    config = read_json(base.path / network / "config.json")
    settings: dict[str, Any] = {}
    if network == "unet":
        settings["unet_config"] = SimpleNamespace(layers_per_block=config.get("layers_per_block", 2))
    try:
        with quiet():
            named = pipeline.lora_state_dict(dict(state), **settings)
    except Exception as error:  # the converters of diffusers raise errors of many types
        raise ConfigError(
            f"model.base_lora {file}: diffusers cannot read its keys for a {base.kind} "
            f"({type(error).__name__}: {' '.join(str(error).split())[:160]}); it was made for another base"
        ) from error
    return named[0] if isinstance(named, tuple) else named


def _pairs(named: State, file: Path) -> dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]:
    """(component, layer) -> its A and B. Raises ConfigError if one of the two is missing."""
    halves: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for key, tensor in named.items():
        component, _, rest = key.partition(".")
        match = re.fullmatch(r"(.+)\.lora_([AB])\.weight", peft_name(component, rest))
        if not match:
            raise ConfigError(f"model.base_lora {file} has the key {key}, which is of no LoRA layer")
        halves.setdefault((component, match[1]), {})[match[2]] = tensor
    for (_, name), half in halves.items():
        if len(half) < 2:
            raise ConfigError(f"model.base_lora {file} has only one of the two tensors of its layer {name}")
    return {layer: (half["A"], half["B"]) for layer, half in halves.items()}


def peft_name(component: str, name: str) -> str:
    """The name in peft of a tensor of a LoRA that has a name of diffusers or of peft."""
    from diffusers.utils import state_dict_utils as tables

    table = tables.UNET_TO_DIFFUSERS
    if component not in NETWORKS:
        table = tables.DIFFUSERS_TO_PEFT | tables.DIFFUSERS_OLD_TO_PEFT
    return str(next(iter(tables.convert_state_dict({name: None}, table))))


def _weighted(base: Base, component: str) -> set[str]:
    """The names of the layers of a component that have weights."""
    from accelerate import init_empty_weights

    if component not in base.components:
        return set()
    with init_empty_weights(), torch.random.fork_rng(devices=[]):
        module = _empty(base, component)
    return {name for name, layer in module.named_modules() if getattr(layer, "weight", None) is not None}


def _empty(base: Base, component: str) -> Any:
    """The component with the weights of its config, to be called where weights are not made."""
    import diffusers
    import transformers

    library, kind = base.index[component]
    if library == "diffusers":
        network = getattr(diffusers, kind)
        return network.from_config(network.load_config(base.path / component))
    encoder = getattr(transformers, kind)
    return encoder(encoder.config_class.from_pretrained(base.path / component, local_files_only=True))


def _factor(metadata: dict[str, Any], component: str, name: str, rank: int) -> float:
    """alpha / r of a layer, from the settings in the file's metadata; 1 if it has none for this component."""
    from peft.utils.other import get_pattern_key

    settings: dict[str, Any] = {}
    for key, value in metadata.items():
        if key.startswith(f"{component}."):
            settings[key.removeprefix(f"{component}.")] = value
    if settings.get("lora_alpha") is None:
        return 1.0
    patterns = settings.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(list(patterns), name), settings["lora_alpha"])
    return float(alpha / (rank**0.5 if settings.get("use_rslora") else rank))
