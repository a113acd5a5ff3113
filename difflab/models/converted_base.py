"""Turns what model.base and model.base_lora name into a complete diffusers folder.

A checkpoint in one file is converted, and a LoRA is added to the weights of the base. The result is a folder
in the cache of difflab, whose name is the hash of its sources and settings. It is made once: its files appear
together, and a second process waits for the first one. From there on everything is as with a folder of the
user.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from difflab.config.families import content_of
from difflab.core import fence
from difflab.core.errors import ConfigError, StoreError
from difflab.core.files import cache_home, to_disk, write_json
from difflab.core.hashing import digest, file_hash_once
from difflab.models import fused_lora, single_file
from difflab.models.pretrained import Base, open_base, open_configs
from difflab.models.text_to_image.registry import pipelines_of

CONFIG_FILES = ["*.json", "*/*.json", "*/*.txt", "*/*.model"]
CONTENT = (".safetensors", ".json", ".txt", ".model")
"""The endings of weights, configs and vocabularies."""
VERSION = 1
"""Changes when the same sources give other folders."""


def open_start(spec: Any) -> Base:
    """Open the base of a text-to-image family: model.base, with model.base_lora added.

    Args:
        spec: the section `model` of a config.

    Raises ConfigError as `pretrained.open_base`, and if a file is damaged, pickled, does not fit the configs,
    or has another content than model.base_content says.
    """
    single_file.check_ending(Path(spec.base))
    kinds = pipelines_of(spec.family)
    if spec.base_content is not None:
        _check_content(spec)
    if spec.base_is_file:
        file = Path(spec.base).expanduser()
        base = open_base(str(_converted(file, spec, kinds)), kinds, spec.family)
    else:
        base = open_base(spec.base, kinds, spec.family, spec.revision, spec.variant)
    if spec.base_lora is None:
        return base
    fused = _fused(base, Path(spec.base_lora).expanduser(), spec.base_lora_scale)
    return open_base(str(fused), kinds, spec.family)


def _check_content(spec: Any) -> None:
    """Raise ConfigError if the files have another content than the config says."""
    found = content_of(spec.base, spec.base_lora)
    if found is not None and found != spec.base_content:
        raise ConfigError(
            f"model.base_content is {spec.base_content}, but the content of the files is {found}: put back "
            "the files of the run, or remove model.base_content for a new run"
        )


def _converted(file: Path, spec: Any, kinds: tuple[str, ...]) -> Path:
    """The diffusers folder of a checkpoint in one file."""
    configs, components = _configs(file, single_file.header(file), spec, kinds)
    rest = [name for name in configs.components if name not in components]
    source = {
        "version": VERSION,
        "file": file_hash_once(file),
        "components": sorted(components),
        "configs": _hashes(configs, components, rest),
    }

    def build(folder: Path) -> None:
        parts = single_file.components_of(single_file.read(file), components)
        for name, part in parts.items():
            single_file.write_component(file, configs, name, part, folder)
        configs.copy_to(folder, leave=tuple(components))

    return _folder(source | {"name": file.name}, digest(source), build)


def _fused(base: Base, file: Path, scale: float) -> Path:
    """The diffusers folder of a base with a LoRA in its weights."""
    single_file.check_ending(file)
    if not file.is_file():
        raise ConfigError(f"model.base_lora {file} does not exist; give the path of a .safetensors file")
    source = {
        "version": VERSION,
        "lora": file_hash_once(file),
        "scale": scale,
        "base": _hashes(base, (), base.components),
    }
    return _folder(
        source | {"name": file.name},
        digest(source),
        lambda folder: fused_lora.fuse(base, file, scale, folder),
    )


def _hashes(base: Base, configs_of: Any, all_of: list[str]) -> dict[str, str]:
    """Path -> hash of the files of a folder: all files of some components, only the configs of others."""
    hashes = {"model_index.json": file_hash_once(base.path / "model_index.json")}
    for name in (*configs_of, *all_of):
        endings = CONTENT if name in all_of else CONTENT[1:]
        for path in base.files(name):
            if path.suffix in endings:
                hashes[str(path.relative_to(base.path))] = file_hash_once(path)
    return hashes


# --------------------------------------------------------------------------------------------------- configs
def _configs(
    file: Path, parts: dict[str, single_file.State], spec: Any, kinds: tuple[str, ...]
) -> tuple[Base, dict[str, single_file.State]]:
    """The diffusers folder with the configs of a checkpoint, and the components that the checkpoint holds.

    The folder has the weights of all other components.
    """
    name = spec.base_config or single_file.inferred_config(parts)
    folder = Path(name).expanduser()
    local = folder.is_dir()
    if not local:
        folder = _download(name, spec.revision, (), spec.variant, file, spec.base_config is None)
    index = _index(folder, name)
    components = single_file.components_of(parts, index)
    if not local:
        rest = tuple(sorted(index.keys() - components.keys()))
        folder = _download(name, spec.revision, rest, spec.variant, file, spec.base_config is None)
    return open_configs(folder, kinds, spec.family, spec.variant, components), components


def _index(folder: Path, name: str) -> dict[str, Any]:
    """The components in a model_index.json that have weights."""
    if not (folder / "model_index.json").is_file():
        raise ConfigError(
            f"model.base_config {name} is not a diffusers folder, because it has no model_index.json"
        )
    index = Base(folder, "").index
    names = (*single_file.NETWORKS, "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    return {part: index[part] for part in names if isinstance(index.get(part), list) and index[part][0]}


@lru_cache(maxsize=8)
def _download(
    name: str,
    revision: str | None,
    weights_of: tuple[str, ...],
    variant: str | None,
    file: Path,
    inferred: bool,
) -> Path:
    """Fetch the configs and tokenizers of a repository of the hub, and the weights of some components."""
    from huggingface_hub import snapshot_download

    weights = [f"{part}/*.safetensors" for part in weights_of]
    others = [f"*/*.{v}*.safetensors*" for v in ("fp16", "bf16", "non_ema") if v != variant]
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=[*CONFIG_FILES, *weights],
                ignore_patterns=[*others, "safety_checker/*"],
            )
        )
    except Exception as error:  # the hub's client raises errors of many types
        reason = " ".join(str(error).split())[:160]
        what = f"model.base_config '{name}'"
        if inferred:
            what = f"model.base {file} needs configs; '{name}', which has those for its kind of file,"
        raise ConfigError(
            f"{what} cannot be downloaded from the hub ({type(error).__name__}: {reason}); set "
            "model.base_config to a local diffusers folder of that architecture"
        ) from error


# --------------------------------------------------------------------------------------- folders in the cache
def _folder(source: dict[str, Any], key: str, build: Callable[[Path], None]) -> Path:
    """The folder with this key. `build` fills it if it does not exist yet.

    Args:
        source: what it is made of; source.json in the folder holds it.
        key: the name of the folder.
        build: gets the path of a temporary folder.
    """
    home = cache_home() / "bases"
    folder = home / key
    if folder.is_dir():
        return folder
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot write to {home}: {error.strerror}; set DIFFLAB_CACHE to another folder"
        ) from error
    with _locked(home / f".{key}.lock"):
        if folder.is_dir():  # another process has made it meanwhile
            return folder
        try:
            with fence.atomic_folder(folder) as temporary:
                build(temporary)
                write_json(temporary / "source.json", source)
                to_disk(temporary)
        except OSError:
            if not folder.is_dir():  # on a disk without locks another process may have been faster
                raise
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes wait for. On a disk without locks the work may be done twice."""
    with open(path, "a") as handle:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
