"""Small chains for tests of the policies on training, weights and training sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from difflab import policies
from difflab.config import parse
from difflab.loop.chain import run_chain
from difflab.loop.regimes import check_possible
from difflab.runs.run import Run

DIGITS: dict[str, Any] = {
    "generations": 2,
    "data": {"source": "digits", "train_size": 80},
    "model": {"family": "pixel-mlp", "width": 16, "depth": 1},
    "train": {
        "images_seen": 640,
        "batch_size": 64,
        "learning_rate": 3e-3,
        "checkpoint_every": 128,
        "start_from": "previous",
    },
    "sample": {"count": 80, "steps": 2, "shard_size": 80, "batch_size": 80},
    "probe": {"per_condition": 0},
    "measure": {"metrics": [], "held_out_loss": 0},
}
COPIES: dict[str, Any] = {
    "generations": 3,
    "data": {"source": "digits", "train_size": 40},
    "model": {"family": "memoriser"},
    "sample": {"count": 40},
    "probe": {"per_condition": 0},
    "measure": {"metrics": []},
}
NUMBERS: dict[str, Any] = {
    "generations": 3,
    "data": {"source": "exact", "train_size": 20},
    "model": {"family": "gaussian"},
    "sample": {"count": 20},
}
LORA: dict[str, Any] = {"family": "stable-diffusion", "base": "tiny-sd", "lora_rank": 2}
TEXT: dict[str, Any] = {
    "generations": 2,
    "data": {"source": "emoji"},
    "model": LORA,
    "train": {"start_from": "base"},
}


def config(*entries: Any, base: dict[str, Any] = DIGITS, **sections: Any) -> Any:
    """`base` with these policies; sections are merged."""
    raw = dict(base)
    for name, values in sections.items():
        raw[name] = {**raw.get(name, {}), **values} if isinstance(values, dict) else values
    return parse({**raw, "policies": list(entries)})


def checked(*entries: Any, n_train: int | None = None, **sections: Any) -> Any:
    """The config, after what is checked before anything runs; with `n_train` the training sets too."""
    made = config(*entries, **sections)
    policies.check(made)
    if n_train is not None:
        check_possible(made, n_train)
    return made


def ran(made: Any, path: Path, report: Any = None) -> Run:
    """The chain, without its curves."""
    return run_chain(made, path, report, plots=False)


def weights(run: Run, generation: int) -> dict[str, torch.Tensor]:
    return load_file(run.gen(generation) / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def numbers(run: Run, t: int) -> tuple[np.ndarray, np.ndarray]:
    """The fit of one generation written down once more, from its training set of samples."""
    x = run.samples(t - 1).gather(np.arange(20))
    return x.mean(0), x.var(0)[..., None]


def rows(run: Run, generation: int) -> list[tuple[str, int, int]]:
    """(pool, generation, index) of a training set."""
    table = pq.read_table(run.gen(generation) / "train_set.parquet")
    return list(zip(*(table[name].to_pylist() for name in ("pool", "generation", "index")), strict=True))


def content(path: Path) -> dict[str, bytes]:
    """All files of a run whose bytes are a function of its config."""
    leave = {
        "timings.jsonl",
        "strip.png",
        "curves.png",
        "run.yaml",
        "config.json",
        "hash.json",
        "hashes.json",
    }  # the last three hold paths, or hashes of files that do
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name not in leave and not p.name.startswith(".lease-") and "cache" not in p.parts
    }
