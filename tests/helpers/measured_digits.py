"""A chain of digits with all measures, and its rows."""

from __future__ import annotations

from functools import partial
from typing import Any

from accelerate import Accelerator

from difflab.config import Config, parse
from difflab.loop.chain import run_chain
from difflab.loop.image_rows import measure_images
from difflab.loop.run_extractors import extractors_of
from difflab.runs.run import Run

run_chain = partial(run_chain, plots=False)  # curves take seconds


ALL = [
    "fd",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "trace_ratio",
    "class_accuracy",
    "class_entropy",
    "rare_class_survival",
]


BASE: dict[str, Any] = {
    "generations": 1,
    "data": {"source": "digits", "train_size": 100},
    "model": {"family": "pixel-mlp", "width": 32, "depth": 1},
    "train": {"images_seen": 2560, "batch_size": 64, "learning_rate": 3e-3},
    "sample": {"count": 80, "steps": 4, "shard_size": 40, "batch_size": 40},
    "probe": {"per_condition": 0},
    "measure": {"metrics": ALL, "resamples": 20, "count": 70, "neighbours": 3},
}


def digits(**changes: Any) -> Config:
    return parse({**BASE, **changes})


def rows(run: Run, **measure: Any) -> dict[str, dict[str, Any]]:
    """Generation 1 of a run measured anew with other settings, by metric."""
    changed = Run(run.path, digits(measure={**BASE["measure"], **measure}))
    accelerator = Accelerator()
    out = measure_images(changed, 1, extractors_of(changed, accelerator), accelerator, lambda n: None)
    return {f"{r['metric']}/{r['extractor']}": r for r in out}


JUDGES = ["judge_frozen", "judge_retrained", "judge_rebased", "judge_retrained_on_real"]


MEMORISER: dict[str, Any] = {
    "generations": 0,
    "model": {"family": "memoriser"},
    "sample": {"count": 30, "shard_size": 30, "batch_size": 30},
}
