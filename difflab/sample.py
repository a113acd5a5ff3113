"""Stage 3, sample: one sharded loop for every family. An image is touched once.

While a shard's images are still in memory they are written, and their features are taken. A shard is drawn by exactly
one process in fixed batches, so the set is the same for any number of processes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from accelerate import Accelerator

from difflab.config import Config
from difflab.data.files import read_json, write_json
from difflab.errors import ConfigError
from difflab.models.base import Family
from difflab.regimes import first_size
from difflab.run import Run
from difflab.seeds import image_seeds, numpy_generator, probe_seeds


def draw(run: Run, generation: int, model: Family, extractors: Sequence[Any], accelerator: Accelerator, advance: Callable[[int], None]) -> float:
    """Draw, write and describe the samples of one generation; returns the seconds spent in the store by this process.

    Args:
        extractors: feature extractors with ``.key`` and ``__call__(uint8 [n, H, W, C]) -> [n, d]``.
    """
    config, shards = run.config, run.samples(generation)
    labels = asked(run, generation, len(shards)) if config.conditional else None
    columns = {**provenance(run, generation), "split": "sample"}
    in_store = 0.0
    for shard in shards.shards[accelerator.process_index :: accelerator.num_processes]:
        span = shards.span(shard)
        pixels = None
        if not shards.has(shard):
            seeds = image_seeds(config.seed, 0, generation, span)
            pixels = _sample(model, None if labels is None else labels[span.start : span.stop], seeds, config, advance)
            started = time.perf_counter()
            shards.write(shard, pixels, {**columns, "seed": seeds, **_labelled(run, labels, span)})
            in_store += time.perf_counter() - started
        else:
            advance(len(span))
        for extractor in extractors:
            shards.derive(extractor.key, shard, extractor, pixels)
    if accelerator.is_main_process:
        _draw_probe(run, generation, model, columns)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(
            run.gen(generation) / "sampled.json", {"count": len(shards), "hash": shards.hash(), "probe": 0 if run.config.exact else probe_count(run)}
        )
    return in_store


def _sample(model: Family, labels: np.ndarray | None, seeds: list[int], config: Config, advance: Callable[[int], None]) -> np.ndarray:
    """One shard in batches, so that progress moves within it."""
    out, size = [], config.sample.batch_size if not config.exact else len(seeds)
    for i in range(0, len(seeds), size):
        out.append(model.sample(None if labels is None else labels[i : i + size], seeds[i : i + size], config.sample))
        advance(len(out[-1]))
    return np.concatenate(out)


def asked(run: Run, generation: int, count: int) -> np.ndarray:
    """The class asked of each sample: int64 [count]. The quotas are those of training set 0 (or equal), the order is random.

    Raises ConfigError when a class would not be asked for at all: its loss would be the experiment's own doing.
    """
    known = run.real.labels()
    if known is None:
        raise ConfigError("a conditional model needs a labelled real set; for this one set model.conditional=false sample.guidance_scale=1")
    classes = run.about["classes"]
    n0 = first_size(run.config, run.about["n_train"])
    share = np.bincount(known[:n0], minlength=len(classes)).astype(float)
    if run.config.sample.conditions == "balanced":
        share = (share > 0).astype(float)  # a class without a training image cannot be asked for
    share /= share.sum()
    quota = np.floor(share * count).astype(int)
    remainder = np.argsort(-(share * count - quota), kind="stable")[: count - quota.sum()]
    quota[remainder] += 1
    if (quota[share > 0] == 0).any():
        lost = classes[int(np.argmax((quota == 0) & (share > 0)))]
        instead = " or use sample.conditions=balanced" if run.config.sample.conditions == "real" else ""
        raise ConfigError(f"sample.count {count} is too small to ask for class '{lost}' even once; raise it{instead}")
    labels = np.repeat(np.arange(len(classes)), quota)
    return numpy_generator("asked", run.config.seed, generation).permutation(labels)


def provenance(run: Run, generation: int) -> dict[str, Any]:
    """The ledger columns that all samples of a generation share."""
    how, folder = run.config.sample, run.gen(generation)
    settings = {
        "scheduler": how.scheduler,
        **how.scheduler_options,
        "steps": how.steps,
        "guidance_scale": how.guidance_scale,
        "batch_size": how.batch_size,
    }
    record = read_json(folder / "model" / "hash.json")
    return {
        "generation": generation,
        "lab": 0,
        "kind": "synthetic",
        "model_hash": record["model"],
        "parents_hash": record["train_set"],
        "settings": json.dumps(settings, sort_keys=True) if hasattr(run.config.model, "prediction_type") else None,
    }


def _labelled(run: Run, labels: np.ndarray | None, span: Any) -> dict[str, Any]:
    if labels is None:
        return {}
    classes, own = run.about["classes"], labels[span.start : span.stop].tolist()
    return {"label": own, "class": [classes[label] for label in own]}


def probe_labels(run: Run) -> np.ndarray | None:
    """Classes of the probe: the most frequent and the rarest alternating, `per_condition` images of each; None = unconditional."""
    probe, known = run.config.probe, run.real.labels()
    if not run.config.conditional or known is None:
        return None
    frequency = np.bincount(known[: first_size(run.config, run.about["n_train"])], minlength=len(run.about["classes"]))
    ranked = np.argsort(-frequency, kind="stable")[: np.count_nonzero(frequency)]  # only what the model has been shown
    shown = len(ranked) if len(ranked) <= probe.conditions else probe.conditions
    chosen = np.sort(np.concatenate([ranked[: -(-shown // 2)], ranked[len(ranked) - shown // 2 :]]))
    return np.repeat(chosen, probe.per_condition)


def probe_count(run: Run) -> int:
    labels = probe_labels(run)
    return len(labels) if labels is not None else 8 * run.config.probe.per_condition


def _draw_probe(run: Run, generation: int, model: Family, columns: dict[str, Any]) -> None:
    count = 0 if run.config.exact else probe_count(run)
    shards = run.probe(generation, count)
    if count and not shards.has(0):
        labels, seeds = probe_labels(run), probe_seeds(run.config.seed, count)
        pixels = model.sample(labels, seeds, run.config.sample)
        shards.write(0, pixels, {**columns, "split": "probe", "seed": seeds, **_labelled(run, labels, range(count))})
