"""What a config would cost, before it costs anything: images, FLOPs, disk and estimated time per stage."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from difflab import regimes
from difflab.config import Config
from difflab.models import family_of
from difflab.models.base import Shape

DIMENSIONS = {"fitted": 64, "efficientnet-lite0": 1280, "inception": 2048, "open_clip": 768}  # of features; open_clip's vary
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


def plan(config: Config, shape: Shape, n_train: int) -> list[Cost]:
    """Costs of every stage. Nothing is run but a few forward passes of the (untrained) network.

    Args:
        shape: record shape and number of classes of the real set.
        n_train: real images in the train split.
    """
    network = _network(config, shape)
    pixels = float(math.prod(shape.record)) * (8 if config.exact else 1)
    out = []
    for t in range(config.generations + 1):
        count = config.sample.count_of(t)
        # What selection may drop is not known yet, so that this is the most a training set can hold.
        drawn, budget = regimes.pools(config, t, n_train, [np.arange(config.sample.count_of(g)) for g in range(t)])
        union = sum(pool.count for pool in drawn)
        sets = union if budget is None else min(budget, union)
        out.append(Cost(t, "mix", sets, 0, 4.0 * sets, 0.02))
        if network:
            seen, passes = config.train.images_seen, network.passes * count
            out.append(Cost(t, "train", seen, 3 * network.flops * seen, network.bytes, seen * network.backward))
            disk = PNG_SHARE * pixels * count + 300 * count
            disk += 4 * count * sum(DIMENSIONS.get(spec.partition(":")[0], pixels) for spec in config.measure.extractors)
            out.append(Cost(t, "sample", count, network.flops * passes, disk, passes * network.forward + 1e-4 * count))
        else:
            out.append(Cost(t, "train", sets, 0, 0, 0.05))
            out.append(Cost(t, "sample", count, 0, pixels * count, 0.05 + 1e-4 * count))
        measures = len(config.measure.metrics) * max(1, len(config.measure.extractors)) if not config.exact else 0
        out.append(Cost(t, "select", count, 0, 10.0 * count, 0.02))
        out.append(Cost(t, "measure", count, 0, 0, 0.05 + 0.006 * measures * (1 + config.measure.resamples) * (count / 1000) ** 2))
    return out


@dataclass(frozen=True)
class _Network:
    """flops: of one forward pass per image. bytes: of the weights. passes: forward passes per sampled image.
    forward, backward: seconds per image in sampling and in a training step."""

    flops: float
    bytes: float
    passes: int
    forward: float
    backward: float


def _network(config: Config, shape: Shape) -> _Network | None:
    """What the network costs; None for a family without one. Raises ConfigError for a scheduler that does not exist."""
    family: Any = family_of(config.model)
    model = family(config.model, shape)
    if not hasattr(model, "initialise"):
        return None
    from torch.utils.flop_counter import FlopCounterMode

    from difflab.models.denoiser import scheduler_of

    model.initialise(0)
    h, w, c = shape.record
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = model.net.to(device)

    def batch(n: int) -> tuple[Any, ...]:
        labels = torch.zeros(n, dtype=torch.long, device=device) if config.conditional else None
        return torch.randn(n, c, h, w, device=device), torch.zeros(n, dtype=torch.long, device=device), labels

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.predict(net, *batch(1))
    scheduler = scheduler_of(config.sample, model.noise)  # second-order ones take more passes than steps
    guided = 2 if config.sample.guidance_scale not in (0, 1) else 1
    sampled, trained = config.sample.batch_size * guided, config.train.batch_size
    with torch.no_grad():
        forward = _seconds(lambda: model.predict(net, *batch(sampled)), device) / sampled
    backward = _seconds(lambda: model.predict(net, *batch(trained)).square().mean().backward(), device) / trained
    # The optimiser, the average and the data cost about a tenth on top (measured on digits).
    size = sum(p.numel() * p.element_size() for p in net.parameters())
    return _Network(float(counter.get_total_flops()), float(size), len(scheduler.timesteps) * guided, forward, 1.1 * backward)


def _seconds(work: Any, device: str) -> float:
    """The best of three, after one to warm up."""
    best = float("inf")
    for attempt in range(4):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if attempt:
            best = min(best, time.perf_counter() - started)
    return best
