"""Stage 3, sample: one sharded loop for every family. Every image is decoded, encoded and written once.

While the images of a shard are in memory, they are written and their features are extracted. One process
draws a whole shard in fixed batches, so the set is the same for any number of processes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from difflab.config import Sample
from difflab.core.files import read_json, write_json
from difflab.core.ragged import together
from difflab.core.seeds import image_seeds, probe_seeds
from difflab.core.size import Size, in_order
from difflab.loop.conditions import (
    probe_conditions,
    probe_count,
    probe_sizes,
    sample_conditions,
    sample_sizes,
)
from difflab.loop.work import Work
from difflab.models import family_of
from difflab.models.family import ClosedForm, Family
from difflab.policies import acting
from difflab.runs.origins import BY_RUN, depth_after
from difflab.runs.run import Run
from difflab.runs.store import Shards


def sample(work: Work, generation: int) -> dict[str, Any]:
    """Stage 3 of one generation: draw its samples.

    The weights are read from disk, so a resumed run draws the same samples. Returns additional columns for
    timings.jsonl.
    """
    run, config = work.run, work.run.config
    model = family_of(config.model).load(config.model, run.shape, run.gen(generation) / "model")
    settings = config.sample
    for policy, at in work.acting("sampling", generation):
        settings = policy.sampling(at, settings)
    if not isinstance(model, ClosedForm):
        model.prepare_sampling(settings, work.accelerator.device)
        model.steers = [policy.steer(at, model) for policy, at in work.acting("steer", generation)]
    count = config.sample.count_of(generation)
    with work.report.stage(generation, "sample", -(-count // work.accelerator.num_processes)) as advance:
        store_seconds = draw_samples(work, generation, model, settings, advance)
        draw_probe(work, generation, model, settings)
    if work.main:
        report_no_change(work, generation, model, settings)
    work.wait()
    if work.main:
        shards = run.samples(generation)
        probed = 0 if config.exact else probe_count(run)
        depth, mean_depth = depth_after(run, generation)
        record = {"count": len(shards), "hash": shards.hash(), "probe": probed}
        record |= {"depth": depth, "mean_depth": mean_depth}
        write_json(run.gen(generation) / "sampled.json", record)
    return {"images": count, "store_seconds": round(store_seconds, 4)}


def draw_samples(
    work: Work, generation: int, model: Any, settings: Sample, advance: Callable[[int], None]
) -> float:
    """Draw and write the samples of one generation, and extract their features.

    Returns the seconds that this process spent writing.
    """
    run, config, accelerator = work.run, work.run.config, work.accelerator
    shards = run.samples(generation)
    conditions = sample_conditions(run, generation, len(shards)) if config.conditional else None
    # Later generations train on the latents, which are computed while the images are in memory. No generation
    # trains on the samples of the last one.
    encoder = None
    if not isinstance(model, ClosedForm) and generation < config.generations:
        encoder = model.encoder(accelerator.device)
    sizes = sample_sizes(run, generation, len(shards), conditions)
    columns = {**provenance(run, generation, settings), "split": "sample"}
    with Writer(shards) as writer:
        for shard in shards.shards[accelerator.process_index :: accelerator.num_processes]:
            span = shards.span(shard)
            pixels = None
            if shards.has(shard):
                advance(len(span))
            else:
                seeds = image_seeds(config.seed, config.lab, generation, span)
                part = None if conditions is None else conditions.part(span)
                part_conditions = None if part is None else part.conditions
                if sizes is None:
                    pixels = draw_shard(model, part_conditions, seeds, settings, config.exact, advance)
                else:
                    part_sizes = sizes[span.start : span.stop]
                    pixels = draw_sizes(model, part_conditions, seeds, settings, part_sizes, advance)
                pixels = changed(work, generation, pixels, seeds)
                writer.write(shard, pixels, {**columns, "seed": seeds, **(part.columns() if part else {})})
            if encoder is not None:
                shards.encode(encoder, shard, pixels)
            for extractor in work.extractors:
                shards.derive(extractor.key, shard, extractor, pixels)
    return writer.seconds


def changed(work: Work, generation: int, pixels: np.ndarray, seeds: list[int]) -> np.ndarray:
    """The drawn images after the policies that change images, in the order of the list."""
    for policy, at in work.acting("drawn_images", generation):
        pixels = policy.drawn_images(at, pixels, seeds)
    return pixels


def report_no_change(work: Work, generation: int, model: Any, settings: Sample) -> None:
    """Report if training did not change the samples of a pretrained base.

    The seed and the caption of the first sample are drawn twice alone: by the trained network and by that of
    the base. A compiled network is not checked, since other weights would be compiled again.
    """
    run, config = work.run, work.run.config
    if not config.text or (generation == 0 and config.model.starts_as_base) or settings.compile:
        return
    conditions = None
    if config.conditional:
        conditions = sample_conditions(run, generation, config.sample.count_of(generation)).part(range(1))
    seeds = image_seeds(config.seed, config.lab, generation, range(1))
    drawn = partial(model.sample, None if conditions is None else conditions.conditions, seeds, settings)
    trained = drawn()
    with model.as_base():
        of_base = drawn()
    if np.array_equal(trained, of_base):
        work.report.say(
            f"generation {generation}: the base draws the same first sample as the trained model, so "
            "training has not changed the samples; check train.images_seen, train.learning_rate and "
            "model.lora_alpha"
        )


class Writer:
    """Writes one shard in a thread while the next one is drawn. `seconds` is the time spent writing."""

    def __init__(self, shards: Shards):
        self.shards, self.seconds = shards, 0.0
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self._finish()
        finally:
            self._pool.shutdown()

    def write(self, shard: int, pixels: np.ndarray, columns: dict[str, Any]) -> None:
        """Start to write a shard after the previous one is written. Raises errors of the previous one."""
        self._finish()
        self._pending = self._pool.submit(self._write, shard, pixels, columns)

    def _finish(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _write(self, shard: int, pixels: np.ndarray, columns: dict[str, Any]) -> None:
        started = time.perf_counter()
        self.shards.write(shard, pixels, columns)
        self.seconds += time.perf_counter() - started


def draw_shard(
    model: Family,
    conditions: np.ndarray | None,
    seeds: list[int],
    settings: Sample,
    exact: bool,
    advance: Callable[[int], None],
) -> np.ndarray:
    """Draw the images of one shard in batches, uint8 [n, H, W, C]. Progress is reported after each batch.

    Exact families draw the whole shard at once: float64 [n, R, d].
    """
    images, size = [], len(seeds) if exact else settings.batch_size
    for start in range(0, len(seeds), size):
        batch = slice(start, start + size)
        images.append(model.sample(None if conditions is None else conditions[batch], seeds[batch], settings))
        advance(len(images[-1]))
    return np.concatenate(images)


def draw_sizes(
    model: Any,
    conditions: np.ndarray | None,
    seeds: list[int],
    settings: Sample,
    sizes: list[Size],
    advance: Callable[[int], None],
) -> np.ndarray:
    """Draw the images of one shard with several sizes (`core.ragged`), one size after another.

    Args:
        sizes: the size (H, W) of each image. An image depends only on its own seed, condition and size.
    """
    images: list[Any] = [None] * len(seeds)
    for size in in_order(set(sizes)):
        rows = [i for i, of_image in enumerate(sizes) if of_image == size]
        part = None if conditions is None else conditions[rows]
        drawn = draw_shard(model.at(size), part, [seeds[i] for i in rows], settings, False, advance)
        for row, image in zip(rows, drawn, strict=True):
            images[row] = image
    return together(images)


def provenance(run: Run, generation: int, settings: Sample) -> dict[str, Any]:
    """The ledger columns that all samples of a generation share."""
    recorded = {
        "precision": settings.precision,
        "scheduler": settings.scheduler,
        **settings.scheduler_options,
        "steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
        "batch_size": settings.batch_size,
    }
    names = []
    for hook in ("sampling", "steer", "drawn_images"):
        names += [policy.policy for policy, _ in acting(hook, run.config, generation)]
    if names:
        recorded["policies"] = list(dict.fromkeys(names))
    hashes = read_json(run.gen(generation) / "model" / "hash.json")
    depth, _ = depth_after(run, generation)
    return {
        "generation": generation,
        "origin": "synthetic",
        "depth": depth,
        "declared_by": BY_RUN,
        "lab": run.config.lab,
        "kind": "synthetic",
        "model_hash": hashes["model"],
        "parents_hash": hashes["train_set"],
        "settings": json.dumps(recorded, sort_keys=True) if run.config.denoises else None,
    }


def draw_probe(work: Work, generation: int, model: Family, settings: Sample) -> None:
    """Draw the images of the probe. Each process draws some of the shards."""
    run, accelerator = work.run, work.accelerator
    count = 0 if run.config.exact else probe_count(run)
    if not count:
        return
    shards, conditions = run.probe(generation, count), probe_conditions(run)
    sizes = probe_sizes(run, conditions)
    seeds = probe_seeds(run.config.seed, count)
    columns = {**provenance(run, generation, settings), "split": "probe"}
    for shard in shards.shards[accelerator.process_index :: accelerator.num_processes]:
        if shards.has(shard):
            continue
        span = shards.span(shard)
        part, part_seeds = conditions.part(span) if conditions else None, seeds[span.start : span.stop]
        part_conditions = None if part is None else part.conditions
        if sizes is None:
            pixels = model.sample(part_conditions, part_seeds, settings)
        else:
            part_sizes = sizes[span.start : span.stop]
            pixels = draw_sizes(model, part_conditions, part_seeds, settings, part_sizes, lambda n: None)
        pixels = changed(work, generation, pixels, part_seeds)
        shards.write(shard, pixels, {**columns, "seed": part_seeds, **(part.columns() if part else {})})
