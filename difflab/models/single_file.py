"""Reads a checkpoint in one file, .safetensors or .gguf, as components of a diffusers folder.

A checkpoint has the key names of the original code of its model. Either it holds the denoising network with
autoencoder and text encoders (the layout of Stability AI and kohya), or the denoising network alone (the
layout of ComfyUI for Flux and SD3). Diffusers has the tables between these names and its own. The configs
come from a diffusers folder. Weights that a config asks for and the file lacks are an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from difflab.core.errors import ConfigError
from difflab.models.pretrained import Base, link_or_copy

NETWORK = "model.diffusion_model."
PREFIXES = {
    "network": (NETWORK,),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}
"""Part of a checkpoint -> the prefixes of its keys. A file without any of them is a network alone.

Keys with other prefixes are buffers of the noise schedule and averaged copies (model_ema). They are not read.
"""
NETWORKS = ("unet", "transformer")
"""The names of the denoising network in diffusers folders."""
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
NETWORK_KEYS = (
    "input_blocks.",
    "down_blocks.",
    "joint_blocks.",
    "double_blocks.",
    "transformer_blocks.",
    "blocks.",
    "layers.",
)
"""The beginnings of keys by which a file without prefixes is known to hold a network."""
SCALED = ("scale_weight", "scaled_fp8", "weight_scale")
"""Keys with these words say that the weights must be multiplied by factors beside them."""
COUNTED = ("UNet2DConditionModel", "SD3Transformer2DModel", "FluxTransformer2DModel")
"""Networks for which the original code and diffusers have the same number of weights."""

State = dict[str, torch.Tensor]


def check_ending(file: Path) -> None:
    """Raise ConfigError if weights in `file` are pickled."""
    if file.suffix.lower() in PICKLED:
        raise ConfigError(
            f"{file} holds pickled weights, which are not read, since they can run code: convert it to "
            ".safetensors, or fetch that version of it"
        )


def header(file: Path) -> dict[str, State]:
    """The parts of a checkpoint, see `PREFIXES`, as tensors on the meta device. No weights are read.

    The keys are those of the file.

    Raises ConfigError if the file does not exist, is damaged or pickled, is a LoRA, or holds no denoising
    network.
    """
    check_ending(file)
    if not file.is_file():
        raise ConfigError(
            f"model.base {file} does not exist; give the path of a checkpoint, a diffusers folder or a hub id"
        )
    if file.suffix.lower() == ".gguf":
        state = _shapes_of_gguf(file)
    else:
        state = _shapes_of_safetensors(file)
    if any("lora_" in key for key in state):
        raise ConfigError(
            f"model.base {file} is a LoRA; set model.base_lora to it and model.base to its base"
        )
    if any(word in key for key in state for word in SCALED):
        raise ConfigError(
            f"model.base {file} has scaled 8-bit weights, which diffusers does not read; use the file in 16 "
            "bits"
        )
    parts = _parts(state)
    if not parts["network"]:
        raise ConfigError(
            f"model.base {file} holds no weights of a denoising network (its first key is "
            f"'{min(state, default='')}'); give a checkpoint of a UNet or transformer"
        )
    return parts


def read(file: Path) -> dict[str, State]:
    """The parts of a checkpoint for which `header` has raised no error, with their weights.

    Quantised weights of a .gguf file are dequantised to float32.
    """
    state = _read_gguf(file) if file.suffix.lower() == ".gguf" else _read_safetensors(file)
    return _parts(state)


def _parts(state: State) -> dict[str, State]:
    parts: dict[str, State] = {}
    for part, prefixes in PREFIXES.items():
        parts[part] = {key: tensor for key, tensor in state.items() if key.startswith(prefixes)}
    if any(parts.values()):
        return parts
    if not any(key.startswith(NETWORK_KEYS) for key in state):
        return parts
    # The converter of the UNet finds its keys by their prefix.
    prefix = NETWORK if "input_blocks.0.0.weight" in state else ""
    return parts | {"network": {prefix + key: tensor for key, tensor in state.items()}}


# --------------------------------------------------------------------------------------------------- formats
@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Any exception of a reader in the block becomes a ConfigError: the file is damaged."""
    try:
        yield
    except (MemoryError, ConfigError):
        raise
    except Exception as error:  # the reader of .gguf files has no errors of its own
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"model.base {file} is damaged or half-downloaded ({type(error).__name__}: {reason}); fetch it "
            "again"
        ) from error


def _shapes_of_safetensors(file: Path) -> State:
    shapes = {}
    with _reading(file), safe_open(file, "pt") as content:
        for key in content.keys():  # noqa: SIM118 (not a dict)
            shapes[key] = torch.empty(content.get_slice(key).get_shape(), device="meta")
    return shapes


def _read_safetensors(file: Path) -> State:
    with _reading(file):
        return load_file(file)


def _tensors_of_gguf(file: Path) -> Any:
    if find_spec("gguf") is None:
        raise ConfigError(f"model.base {file} needs the package gguf: pip install 'difflab[gguf]'")
    from gguf import GGUFReader

    with _reading(file):
        return GGUFReader(file).tensors


def _shapes_of_gguf(file: Path) -> State:
    tensors = _tensors_of_gguf(file)
    return {t.name: torch.empty([int(n) for n in reversed(t.shape)], device="meta") for t in tensors}


def _read_gguf(file: Path) -> State:
    tensors = _tensors_of_gguf(file)
    from gguf.quants import dequantize

    state: State = {}
    with _reading(file):
        for tensor in tensors:
            kind, data = tensor.tensor_type.name, tensor.data.copy()
            if kind == "BF16":
                state[tensor.name] = torch.from_numpy(data.view("int16")).view(torch.bfloat16)
            elif kind in ("F16", "F32"):
                state[tensor.name] = torch.from_numpy(data)
            else:
                state[tensor.name] = torch.from_numpy(dequantize(data, tensor.tensor_type))
    return state


# --------------------------------------------------------------------------------------------------- configs
def inferred_config(parts: dict[str, State]) -> str:
    """The hub id of the diffusers folder with the configs for this checkpoint, as diffusers guesses it."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    everything: State = {}
    for part in parts.values():
        everything |= part
    return str(fetch_diffusers_config(everything)["pretrained_model_name_or_path"])


def components_of(parts: dict[str, State], names: Iterable[str]) -> dict[str, State]:
    """The components among `names`, those of a diffusers folder, whose weights the checkpoint holds."""
    found = {}
    for name in names:
        part = parts.get("network" if name in NETWORKS else name)
        if part:
            found[name] = part
    return found


# ------------------------------------------------------------------------------------------------ components
def write_component(file: Path, configs: Base, name: str, part: State, folder: Path) -> None:
    """Write a component of a checkpoint to `folder`/`name`, with the config of `configs`.

    Its type is the smallest that represents all weights of the file exactly.

    Args:
        file: the checkpoint, for error messages.
        configs: the diffusers folder with the config.
        name: the name of the component.
        part: its weights.
        folder: the diffusers folder to write.

    Raises ConfigError if the weights do not fit the config.
    """
    with quiet(), _fitting(file, configs, name):
        module = _component(configs, name, part)
    missing = [key for key, tensor in module.state_dict().items() if tensor.is_meta]
    if missing:
        raise ConfigError(
            f"model.base {file} lacks {len(missing)} weights of '{name}' that the config in {configs.path} "
            f"asks for, the first is {missing[0]}; use the model.base_config that it was made for"
        )
    held, read = _count(part), _count(module.state_dict())
    if type(module).__name__ in COUNTED and held > read:
        raise ConfigError(
            f"model.base {file} has {held:,} weights of '{name}', but the config in {configs.path} describes "
            f"{read:,}; use the model.base_config that it was made for"
        )
    save(module, configs, name, folder)


def save(module: Any, configs: Base, name: str, folder: Path) -> None:
    """Write the weights of a component to `folder`/`name`, with the config file of `configs`.

    A config that diffusers writes contains its version, so that the hash of the base would depend on it.
    """
    with quiet():
        module.save_pretrained(folder / name, safe_serialization=True)
    (folder / name / "config.json").unlink()
    link_or_copy((configs.path / name / "config.json").resolve(), folder / name / "config.json")


def _component(configs: Base, name: str, part: State) -> Any:
    import diffusers
    import transformers
    from diffusers.loaders import single_file_utils as original

    library, kind = configs.index[name]
    place = {"subfolder": name, "local_files_only": True, "torch_dtype": smallest_type(part.values())}
    weights = dict(part)  # the converters change it
    if library == "diffusers":
        network = getattr(diffusers, kind)
        return network.from_single_file(weights, config=str(configs.path), **place)
    create: Any = original.create_diffusers_clip_model_from_ldm
    if kind.startswith("T5"):
        create = original.create_diffusers_t5_model_from_checkpoint
    return create(getattr(transformers, kind), weights, config=str(configs.path), **place)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and the warnings of diffusers and transformers in the block."""
    import diffusers
    import transformers

    loggers = (diffusers.utils.logging, transformers.utils.logging)
    levels = [logger.get_verbosity() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)


@contextmanager
def _fitting(file: Path, configs: Base, name: str) -> Iterator[None]:
    """Any exception in the block becomes a ConfigError: the weights do not fit the config."""
    try:
        yield
    except (MemoryError, OSError):
        raise
    except Exception as error:  # the converters of diffusers raise errors of many types
        reason = f"{type(error).__name__}: {error}"
        if "meta tensor" in reason:  # of weights that were not in the file
            reason = "the file lacks weights that the config asks for"
        raise ConfigError(
            f"model.base {file}: the weights of '{name}' do not fit the config in {configs.path} "
            f"({' '.join(reason.split())[:200]}); use the model.base_config that it was made for"
        ) from error


def _count(state: State) -> int:
    return sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())


def smallest_type(tensors: Iterable[torch.Tensor]) -> torch.dtype:
    """The smallest of float16, bfloat16 and float32 that represents all floating-point tensors exactly."""
    kinds = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    narrow = {kind for kind in kinds if kind.itemsize == 1}  # 8-bit floats are exact in bfloat16
    if kinds == {torch.float16}:
        return torch.float16
    if kinds <= narrow | {torch.bfloat16}:
        return torch.bfloat16
    return torch.float32
