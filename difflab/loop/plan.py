"""What a config would cost, before it costs anything: images, FLOPs, disk and estimated time per stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from difflab.config import Config
from difflab.core.seeds import seed_of
from difflab.core.shape import Shape
from difflab.loop import regimes
from difflab.loop.ingest import divided
from difflab.loop.regimes import check_possible
from difflab.models import family_of
from difflab.models.family import ClosedForm
from difflab.policies import acting
from difflab.runs.sizes import fresh_needed

DIMENSIONS = {
    "texture": 8,
    "fitted": 64,
    "efficientnet-lite0": 1280,
    "inception": 2048,
    "open_clip": 768,
    "timm": 1024,
}  # of features; open_clip's and timm's vary
PNG_SHARE = 0.7  # typical size of a PNG of natural or noisy small images, relative to its raw pixels


@dataclass(frozen=True)
class Cost:
    """One stage of one generation. `images`: of mix the training set's size, of train the images seen, else the samples.
    `seconds` is an estimate from a speed measured on this machine."""

    generation: int
    stage: str
    images: int
    flops: float
    disk_bytes: float
    seconds: float


def plan(config: Config, shape: Shape, n_train: int, captions: int = 0) -> list[Cost]:
    """Costs of every stage. Nothing is run but a few forward passes of the (untrained) network.

    Args:
        shape: record shape and number of classes of the real set.
        n_train: real images in the train split.
        captions: distinct captions of a text-to-image run, whose embeddings are kept (stage "captions").
    """
    network = _network(config, shape)
    pixels = float(math.prod(shape.record)) * (8 if config.exact else 1)
    out = [_captions(config, shape, captions)] if config.text and captions else []
    for t in range(config.generations + 1):
        count = config.sample.count_of(t)
        # What selection may drop is not known yet, so that this is the most a training set can hold.
        drawn, budget = regimes.pools(
            config, t, n_train, [np.arange(config.sample.count_of(g)) for g in range(t)]
        )
        union = sum(pool.count for pool in drawn)
        sets = union if budget is None else min(budget, union)
        out.append(Cost(t, "mix", sets, 0, 4.0 * sets, 0.02))
        if network:
            passes = network.passes * count
            train = config.train
            for policy, at in acting("training", config, t):
                train = policy.training(at, train)
            seen = (
                0 if t == 0 and getattr(config.model, "generation_0", "fit") == "base" else train.images_seen
            )
            out.append(
                Cost(
                    t,
                    "train",
                    seen,
                    network.training * network.flops * seen,
                    network.bytes,
                    seen * network.backward,
                )
            )
            disk = PNG_SHARE * pixels * count + 300 * count
            disk += (
                4
                * count
                * sum(DIMENSIONS.get(spec.partition(":")[0], pixels) for spec in config.measure.extractors)
            )
            seconds = passes * network.forward + count * (network.finish + 1e-4)
            out.append(
                Cost(t, "sample", count, network.flops * passes + network.finish_flops * count, disk, seconds)
            )
        else:
            out.append(Cost(t, "train", sets, 0, 0, 0.05))
            out.append(Cost(t, "sample", count, 0, pixels * count, 0.05 + 1e-4 * count))
        measures = (
            len(config.measure.metrics) * max(1, len(config.measure.extractors)) if not config.exact else 0
        )
        out.append(Cost(t, "select", count, 0, 10.0 * count, 0.02))
        out.append(
            Cost(
                t,
                "measure",
                count,
                0,
                0,
                0.05 + 0.006 * measures * (1 + config.measure.resamples) * (count / 1000) ** 2,
            )
        )
    return out


def costs_of(config: Config, labs: Sequence[Config], notes: list[str]) -> list[Cost]:
    """The costs of one chain, or of one of `labs`, on its real images. What was left out of them is added to `notes`.

    Raises ConfigError when a generation would ask for more images than there will be, DataError for unreadable images.
    """
    captions = 0
    if config.exact:
        n_train = (config.data.train_size or 0) + fresh_needed(config, config.data.train_size or 0)
        shape = Shape(family_of(config.model).truth(config.model, [0]).shape[1:])
    else:
        source, train, held_out = divided(config)
        n_train = len(train)
        in_parts = config.ecosystem is not None and config.ecosystem.real == "disjoint"
        used = None if in_parts else n_train + len(held_out)
        notes += source.account.told(f"real images ({source.name})", used)
        shape = Shape((source.size, source.size, source.channels), len(source.classes or []))
        if config.text and config.conditional:
            captions = len(set(source.prompts or []))
    check_possible(config, n_train, labs)
    return plan(config, shape, n_train, captions)


def stage_weights(config: Config) -> dict[tuple[int, str], float]:
    """Expected seconds of every (generation, stage), for the time left that is shown.

    Only their relation counts, since the pace is corrected while the chain runs.
    """
    labs = config.labs()
    weights: dict[tuple[int, str], float] = {}
    if len(labs) > 1:
        for lab in labs:
            for (t, stage), seconds in stage_weights(lab).items():
                weights[t, f"lab {lab.lab} {stage}"] = seconds
        return weights
    forward = 1e-4 / 3  # of one image through the network; a training step takes three times as long
    passes = config.sample.steps * (2 if config.sample.guidance_scale > 1 else 1)
    for t in range(config.generations + 1):
        untrained = t == 0 and getattr(config.model, "generation_0", "fit") == "base"
        weights[t, "train"] = 0.0 if untrained else 3 * forward * config.train.images_seen
        weights[t, "sample"] = forward * passes * config.sample.count_of(t)
        weights[t, "measure"], weights[t, "mix"], weights[t, "select"] = 2.0, 0.1, 0.1
    return weights


def _captions(config: Config, shape: Shape, captions: int) -> Cost:
    """Encoding every distinct caption once. `disk_bytes`: of the embeddings, which a run also holds in memory; 0 = too many, every batch is encoded anew."""
    from difflab.models.latent import KEPT

    model: Any = family_of(config.model)(config.model, shape)
    if getattr(
        config.model, "train_text_encoder", False
    ):  # its embeddings change with every step and are not kept
        return Cost(0, "captions", captions, 0, 0, 0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = model.text_bytes(device) * (captions + 1)
    read = model.base.text_reader(device)
    seconds = _per_image(lambda n: read(["a photograph"] * n), min(64, captions), device)
    return Cost(0, "captions", captions, 0, 0 if size > KEPT else size, seconds * captions)


@dataclass(frozen=True)
class _Network:
    """flops: of one forward pass per image. bytes: of what is trained. passes: forward passes per sampled image.
    forward, backward: seconds per image in sampling and in a training step. finish, finish_flops: of decoding one image.
    training: FLOPs of a training step, in forward passes."""

    flops: float
    bytes: float
    passes: int
    forward: float
    backward: float
    finish: float
    finish_flops: float
    training: int


def _network(config: Config, shape: Shape) -> _Network | None:
    """What the network costs; None for a family without one. Raises ConfigError for a scheduler that does not exist."""
    family: Any = family_of(config.model)
    model = family(config.model, shape)
    if isinstance(model, ClosedForm):
        return None
    from torch.utils.flop_counter import FlopCounterMode

    from difflab.core.flops import forward_flops
    from difflab.models.latent import TYPES

    model.check_sampling(config.sample)
    scheduler = model.scheduler(config.sample)  # second-order ones take more passes than steps
    guided = 2 if config.sample.guidance_scale > 1 else 1
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.initialise(seed_of("plan"), scratch=True)
    model.prepare_training(config.train.model_copy(update={"compile": False}), device)

    def batch(n: int) -> tuple[Any, ...]:
        conditions = torch.full((n,), model.null, device=device) if config.conditional else None
        return (
            torch.randn(n, *model.drawn, device=device),
            torch.zeros(n, dtype=torch.long, device=device),
            conditions,
        )

    trained = config.train.micro_batch_size or config.train.batch_size
    with torch.autocast(
        device, TYPES[config.train.precision], enabled=config.train.precision != "no"
    ):  # as accelerate trains
        flops = forward_flops(model)
        backward = _per_image(
            lambda n: model.predict(model.net, *batch(n)).float().square().mean().backward(), trained, device
        )
    size = sum(p.numel() * p.element_size() for p in model.net.parameters() if p.requires_grad)
    model.prepare_sampling(config.sample.model_copy(update={"compile": False}), device)
    sampled = config.sample.batch_size * guided
    with torch.no_grad():
        forward = _per_image(lambda n: model.predict(model.net, *batch(n)), sampled, device)
        latents = torch.randn(min(8, sampled), *model.drawn, device=device)
        finish = _per_image(lambda n: model.finish(latents[:n]), len(latents), device)
        with FlopCounterMode(display=False) as counter:
            model.finish(latents[:1])
    # The optimiser, the average and the data cost about a tenth on top (measured on digits).
    return _Network(
        flops,
        float(size),
        len(scheduler.timesteps) * guided,
        forward,
        1.1 * backward,
        finish,
        float(counter.get_total_flops()),
        2 if getattr(config.model, "lora_rank", 0) else 3,
    )


def _per_image(work: Callable[[int], Any], most: int, device: str, patience: float = 4) -> float:
    """Seconds per image of work on a batch: the best of three in batches of `most`, or of fewer and less often where that takes more than `patience` seconds."""

    def seconds(n: int) -> float:
        started = time.perf_counter()
        work(n)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    seconds(1)  # to warm up
    one = seconds(1)
    n = min(most, int(patience / one / 2))
    if n <= 1:
        return one
    seconds(n)
    found = [seconds(n)]
    while len(found) < 3 and sum(found) < patience:
        found.append(seconds(n))
    return min(found) / n
