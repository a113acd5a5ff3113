"""Stage 3, sample: one sharded loop for every family. An image is touched once.

While a shard's images are still in memory they are written, and their features are taken. A shard is drawn by exactly
one process in fixed batches, so the set is the same for any number of processes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import Accelerator

from difflab.config import Sample
from difflab.core.errors import ConfigError
from difflab.core.files import read_json, write_json
from difflab.core.seeds import image_seeds, numpy_generator, probe_seeds
from difflab.models.family import ClosedForm, Family
from difflab.policies import acting
from difflab.runs.run import Run
from difflab.runs.sizes import first_size


def draw(
    run: Run,
    generation: int,
    model: Any,
    how: Sample,
    extractors: Sequence[Any],
    accelerator: Accelerator,
    advance: Callable[[int], None],
) -> float:
    """Draw, write and describe the samples of one generation; returns the seconds spent in the store by this process.

    Args:
        how: config.sample, perhaps changed by policies.
        extractors: feature extractors with ``.key`` and ``__call__(uint8 [n, H, W, C]) -> [n, d]``.
    """
    config, shards = run.config, run.samples(generation)
    wanted = asked(run, generation, len(shards)) if config.conditional else None
    # What will be trained on is encoded while the image is in memory; the last generation trains nothing.
    encoder = (
        model.encoder(accelerator.device)
        if not isinstance(model, ClosedForm) and generation < config.generations
        else None
    )
    columns = {**provenance(run, generation, how), "split": "sample"}
    in_store = 0.0

    def write(shard: int, pixels: np.ndarray, columns: dict[str, Any]) -> None:
        nonlocal in_store
        started = time.perf_counter()
        shards.write(shard, pixels, columns)
        in_store += time.perf_counter() - started

    with ThreadPoolExecutor(1) as writer:  # writes one shard while the next one is drawn
        writing: Future[None] | None = None
        for shard in shards.shards[accelerator.process_index :: accelerator.num_processes]:
            span = shards.span(shard)
            pixels = None
            if not shards.has(shard):
                seeds = image_seeds(config.seed, config.lab, generation, span)
                own = None if wanted is None else wanted.part(span)
                pixels = _sample(
                    model, None if own is None else own.conditions, seeds, how, config.exact, advance
                )
                if writing is not None:
                    writing.result()
                writing = writer.submit(
                    write, shard, pixels, {**columns, "seed": seeds, **(own.columns() if own else {})}
                )
            else:
                advance(len(span))
            if encoder is not None:
                shards.encode(encoder, shard, pixels)
            for extractor in extractors:
                shards.derive(extractor.key, shard, extractor, pixels)
        if writing is not None:
            writing.result()
    _draw_probe(run, generation, model, how, columns, accelerator)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(
            run.gen(generation) / "sampled.json",
            {
                "count": len(shards),
                "hash": shards.hash(),
                "probe": 0 if run.config.exact else probe_count(run),
            },
        )
    return in_store


def _sample(
    model: Family,
    conditions: np.ndarray | None,
    seeds: list[int],
    how: Sample,
    exact: bool,
    advance: Callable[[int], None],
) -> np.ndarray:
    """One shard in batches, so that progress moves within it."""
    out, size = [], len(seeds) if exact else how.batch_size
    for i in range(0, len(seeds), size):
        out.append(
            model.sample(None if conditions is None else conditions[i : i + size], seeds[i : i + size], how)
        )
        advance(len(out[-1]))
    return np.concatenate(out)


@dataclass(frozen=True)
class Asked:
    """What is asked of each sample. conditions: int64 [n]; labels: int64 [n] or None; the texts behind them, or None."""

    conditions: np.ndarray
    labels: np.ndarray | None
    classes: list[str] | None
    prompts: list[str] | None

    def part(self, span: range) -> Asked:
        cut = slice(span.start, span.stop)
        labels = None if self.labels is None else self.labels[cut]
        return Asked(
            self.conditions[cut],
            labels,
            self.classes and self.classes[cut],
            self.prompts and self.prompts[cut],
        )

    def columns(self) -> dict[str, Any]:
        """As columns of the ledger."""
        labels = None if self.labels is None else self.labels.tolist()
        return {
            name: value
            for name, value in (("label", labels), ("class", self.classes), ("prompt", self.prompts))
            if value is not None
        }


def asked(run: Run, generation: int, count: int) -> Asked:
    """What is asked of `count` samples: the classes and captions of training set 0 (or classes equally often), in random order.

    Classes have exact quotas. Captions go through the images of each class in turn, the same ones in every generation.
    Raises ConfigError when a class would not be asked for at all: its loss would be the experiment's own doing.
    """
    labels = _quotas(run, generation, count)
    if not run.config.text:
        assert labels is not None
        return _named(run, labels, labels, None)
    known, n0 = run.real.labels(), first_size(run.config, run.about["n_train"])
    captions = run.conditions(run.real)[:n0]  # type: ignore[index]
    order = numpy_generator("captions", run.config.seed).permutation(n0)
    conditions = np.empty(count, dtype=np.int64)
    if labels is None or known is None:
        conditions[:] = numpy_generator("asked", run.config.seed, generation).permutation(
            np.resize(captions[order], count)
        )
    else:
        for label in np.unique(labels):
            own = captions[order[known[order] == label]]
            conditions[labels == label] = np.resize(own, int((labels == label).sum()))
    return _named(run, conditions, labels, conditions)


def _named(run: Run, conditions: np.ndarray, labels: np.ndarray | None, captions: np.ndarray | None) -> Asked:
    classes, prompts = run.about["classes"], run.prompts
    named = None if labels is None else [classes[label] for label in labels.tolist()]
    return Asked(
        conditions, labels, named, None if captions is None else [prompts[c] for c in captions.tolist()]
    )


def _quotas(run: Run, generation: int, count: int) -> np.ndarray | None:
    """The class asked of each sample: int64 [count]; None where a text model's set has no classes."""
    known = run.real.labels()
    if known is None:
        if run.config.text:
            return None
        raise ConfigError(
            "a conditional model needs a labelled real set; for this one set model.conditional=false sample.guidance_scale=1"
        )
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
        raise ConfigError(
            f"sample.count {count} is too small to ask for class '{lost}' even once; raise it{instead}"
        )
    labels = np.repeat(np.arange(len(classes)), quota)
    return numpy_generator("asked", run.config.seed, generation).permutation(labels)


def provenance(run: Run, generation: int, how: Sample) -> dict[str, Any]:
    """The ledger columns that all samples of a generation share."""
    folder = run.gen(generation)
    settings = {
        "precision": how.precision,
        "scheduler": how.scheduler,
        **how.scheduler_options,
        "steps": how.steps,
        "guidance_scale": how.guidance_scale,
        "batch_size": how.batch_size,
    }
    steered = [
        policy.policy for hook in ("sampling", "steer") for policy, _ in acting(hook, run.config, generation)
    ]
    settings |= {"policies": list(dict.fromkeys(steered))} if steered else {}
    record = read_json(folder / "model" / "hash.json")
    return {
        "generation": generation,
        "lab": run.config.lab,
        "kind": "synthetic",
        "model_hash": record["model"],
        "parents_hash": record["train_set"],
        "settings": json.dumps(settings, sort_keys=True) if run.config.denoises else None,
    }


def probe_asked(run: Run) -> Asked | None:
    """What the probe asks for; None = unconditional.

    Captions: those of config, or some of training set 0, each `per_condition` times. Classes: the most frequent and the rarest
    alternating, `per_condition` images of each.
    """
    probe, n0 = run.config.probe, first_size(run.config, run.about["n_train"])
    if not run.config.conditional:
        return None
    if run.config.text:
        captions = run.conditions(run.real)
        assert captions is not None
        if probe.prompts is not None:
            at = {prompt: i for i, prompt in enumerate(run.prompts)}
            chosen = np.array([at[prompt] for prompt in probe.prompts])
        else:
            own = np.unique(captions[:n0])
            chosen = np.sort(numpy_generator("probe", run.config.seed).permutation(own)[: probe.conditions])
        conditions = np.repeat(chosen, probe.per_condition)
        known = run.real.labels()
        labels = None if known is None else known[[int(np.argmax(captions == c)) for c in conditions]]
        return _named(run, conditions, labels, conditions)
    known = run.real.labels()
    if known is None:
        return None
    frequency = np.bincount(known[:n0], minlength=len(run.about["classes"]))
    ranked = np.argsort(-frequency, kind="stable")[
        : np.count_nonzero(frequency)
    ]  # only what the model has been shown
    shown = len(ranked) if len(ranked) <= probe.conditions else probe.conditions
    chosen = np.sort(np.concatenate([ranked[: -(-shown // 2)], ranked[len(ranked) - shown // 2 :]]))
    labels = np.repeat(chosen, probe.per_condition)
    return _named(run, labels, labels, None)


def probe_count(run: Run) -> int:
    wanted = probe_asked(run)
    return len(wanted.conditions) if wanted is not None else 8 * run.config.probe.per_condition


def _draw_probe(
    run: Run, generation: int, model: Family, how: Sample, columns: dict[str, Any], accelerator: Accelerator
) -> None:
    """The probe in batches, each by one process: nobody waits for the main one to draw pictures."""
    count = 0 if run.config.exact else probe_count(run)
    if not count:
        return
    shards, wanted, seeds = (
        run.probe(generation, count),
        probe_asked(run),
        probe_seeds(run.config.seed, count),
    )
    for shard in shards.shards[accelerator.process_index :: accelerator.num_processes]:
        if not shards.has(shard):
            span = shards.span(shard)
            own, drawn = wanted.part(span) if wanted else None, seeds[span.start : span.stop]
            pixels = model.sample(None if own is None else own.conditions, drawn, how)
            shards.write(
                shard, pixels, {**columns, "split": "probe", "seed": drawn, **(own.columns() if own else {})}
            )
