"""The files of a component of a diffusers folder: their names, and whether all of them are there."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

from safetensors import SafetensorError, safe_open

from difflab.core.errors import ConfigError
from difflab.core.files import read_json

# The names of weight files and of their indexes, for example model.fp16.safetensors,
# model.fp16-00001-of-00002.safetensors and model.safetensors.index.fp16.json. "fp16" is the variant, which
# may be absent.
WEIGHTS = re.compile(
    r"[^.]+(\.(?P<variant>\w+?))?(-\d{5}-of-\d{5})?\.safetensors"
    r"(?P<index>\.index(\.(?P<index_variant>\w+))?\.json)?"
)

TOKENIZERS = ("tokenizer", "processor")
"""How the names of components begin that read prompts and have no weights."""


def variant_of(file: Path) -> str | None:
    """The variant in the name of a weight file or of an index of weight files; None = no variant."""
    match = WEIGHTS.fullmatch(file.name)
    return (match["variant"] or match["index_variant"]) if match else None


def check_config(home: Path) -> None:
    """Raise ConfigError unless the folder of a component has its config."""
    if not (home / "config.json").is_file():
        raise ConfigError(f"{home} holds no config.json; the download is not complete: fetch it again")


def check_component(folder: Path, component: str, variant: str | None) -> None:
    """Raise ConfigError unless all files of a component are there."""
    home = folder / component
    if not home.is_dir():
        raise ConfigError(
            f"model.base {folder} lacks its component '{component}'; the download is not complete: fetch "
            "it again"
        )
    if component.startswith(TOKENIZERS):
        if not list(home.glob("*.json")):
            raise ConfigError(f"{home} holds no tokenizer files; fetch it again")
        return
    if component == "scheduler":
        if not (home / "scheduler_config.json").is_file():
            raise ConfigError(f"{home} holds no scheduler_config.json; fetch it again")
        return
    check_config(home)
    all_variants = [path for path in home.iterdir() if WEIGHTS.fullmatch(path.name)]
    of_variant = [path for path in all_variants if variant_of(path) == variant]
    files = [path for path in of_variant if path.suffix == ".safetensors"]
    indexes = [read_json(path)["weight_map"] for path in of_variant if path.suffix == ".json"]
    wanted = set(chain.from_iterable(index.values() for index in indexes))
    missing = sorted(wanted - {path.name for path in files})
    if missing:
        raise ConfigError(
            f"{home} lacks {missing[0]} ({len(missing)} of {len(wanted)} weight files); the download is "
            "not complete: fetch it again"
        )
    if not files:
        others = sorted({name for path in all_variants if (name := variant_of(path))})
        if others:
            raise ConfigError(
                f"{home} has only weights of variant {', '.join(others)}; set model.variant={others[0]}"
            )
        raise ConfigError(f"{home} has no safetensors weights{_pickle_hint(home)}")
    for file in files:
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{file} is damaged or half-downloaded ({error}); fetch it again") from error


def _pickle_hint(home: Path) -> str:
    """The end of an error message about missing weights, if the folder has pickled ones; else ""."""
    if not list(home.glob("*.bin")):
        return ""
    return "; pickled .bin weights are not read, since they can run code: fetch the safetensors"
