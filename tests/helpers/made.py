"""Candidates made of given features, labels and pixels, for tests of selectors: the real class on a run that is not on disk."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from difflab import policies
from difflab.config import parse
from difflab.policies import At
from difflab.policies.candidates import Candidates
from difflab.runs import ledger

CLASSES = ["ant", "bee", "cat"]
DIGITS: dict[str, Any] = {"model": {"family": "pixel-mlp"}, "generations": 3}
NUMBERS: dict[str, Any] = {
    "model": {"family": "categorical"},
    "data": {"source": "exact", "train_size": 50},
    "generations": 3,
}
UNCONDITIONAL: dict[str, Any] = {"model": {"family": "memoriser"}, "generations": 3}


def config(*entries: Any, base: dict[str, Any] = DIGITS, **sections: Any) -> Any:
    return parse({**base, **sections, "policies": list(entries)})


def checked(*entries: Any, base: dict[str, Any] = DIGITS, **sections: Any) -> Any:
    """The config, after what the engine checks before it runs anything."""
    made = config(*entries, base=base, **sections)
    policies.check(made)
    return made


def candidates(
    features: Any = None,
    real: Any = None,
    labels: Any = None,
    real_labels: Any = None,
    prompts: list[str] | None = None,
    images: np.ndarray | None = None,
    generation: int = 1,
    extractors: Any = None,
    base: dict[str, Any] = DIGITS,
    seed: int = 0,
    n: int | None = None,
) -> tuple[At, Candidates]:
    """Where a policy stands, and the candidates: all samples of one generation."""
    extractors = extractors or [SimpleNamespace(key="pixels", name="pixels", encode_text=None)]
    given = next(x for x in (features, labels, images, prompts, range(n or 0)) if x is not None)
    fake = _tensor(np.zeros((len(given), 1)) if features is None else features)
    true = _tensor(np.zeros((4, fake.shape[1])) if real is None else real)
    asked = None if labels is None else np.asarray(labels, dtype=np.int64)
    named = [None] * len(fake) if asked is None else [CLASSES[i] for i in asked]
    columns = {"label": None if asked is None else asked.tolist(), "class": named, "prompt": prompts}
    rows = pa.table(
        [pa.array(columns.get(name) or [None] * len(fake), kind) for name, kind in ledger.COLUMNS],
        [name for name, _ in ledger.COLUMNS],
    )
    samples = SimpleNamespace(
        shards=range(1),
        table=lambda shard, names: rows.select(names),
        labels=lambda: asked,
        features=lambda key: fake,
        gather=lambda index: np.asarray(images)[index],
    )
    known = None if real_labels is None else np.asarray(real_labels, dtype=np.int64)
    made = parse({**base, "seed": seed, "sample": {"count": max(2, len(fake))}})
    run: Any = SimpleNamespace(
        config=made,
        samples=lambda generation: samples,
        real=SimpleNamespace(features=lambda key: true, labels=lambda: known),
        about={"n_train": len(true), "classes": CLASSES},
    )
    at = At(generation=generation, position=0, config=made, run=run, n_train=len(true), extractors=extractors)
    return at, Candidates(run, generation, np.arange(len(fake)), extractors)


def _tensor(x: Any) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else torch.as_tensor(np.asarray(x, dtype=np.float32))


def reasons(entry: Any, at: At, among: Candidates) -> list[str | None]:
    return policies.parse(entry).select(at, among)


def kept(entry: Any, at: At, among: Candidates) -> list[int]:
    """Positions that this policy keeps."""
    out = reasons(entry, at, among)
    assert len(out) == len(among) and all(reason is None or reason for reason in out)
    return [i for i, reason in enumerate(out) if reason is None]
