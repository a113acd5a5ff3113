"""What a config would cost, before it costs anything: images, FLOPs, disk and estimated time per stage."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from difflab.config import Config
from difflab.models import family_of
from difflab.models.base import Shape

PNG_SHARE = 0.7  # typical size of a PNG of natural or noisy small images, relative to its raw pixels


@dataclass(frozen=True)
class Cost:
    """One stage of one generation. `seconds` is an estimate from a speed measured on this machine."""

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
    flops, forward, backward = _network(config, shape)
    pixels = float(torch.tensor(shape.record).prod()) * (8 if config.exact else 1)
    n0 = config.data.train_size or n_train
    total, out = n0, []
    for t in range(config.generations + 1):
        count = config.sample.count_of(t)
        sets = {"accumulate": total}.get(config.regime.name, config.regime.set_size or n0)
        out.append(Cost(t, "mix", sets, 0, 4.0 * sets, 0.02))
        if flops:
            guided = 2 if config.sample.guidance_scale not in (0, 1) else 1
            seen = config.train.images_seen
            out.append(Cost(t, "train", seen, 3 * flops * seen, 0, seen * backward))
            out.append(
                Cost(
                    t,
                    "sample",
                    count,
                    flops * guided * config.sample.steps * count,
                    PNG_SHARE * pixels * count + 300 * count,
                    count * guided * config.sample.steps * forward + 1e-4 * count,
                )
            )
        else:
            out.append(Cost(t, "train", sets, 0, 0, 0.05))
            out.append(Cost(t, "sample", count, 0, pixels * count, 0.05 + 1e-4 * count))
        measures = len(config.measure.metrics) * max(1, len(config.measure.extractors)) if not config.exact else 0
        out.append(Cost(t, "select", count, 0, 10.0 * count, 0.02))
        out.append(Cost(t, "measure", count, 0, 0, 0.05 + 0.006 * measures * (1 + config.measure.resamples) * (count / 1000) ** 2))
        total += count
    return out


def _network(config: Config, shape: Shape) -> tuple[float, float, float]:
    """FLOPs of one forward pass per image, and seconds per image forward and in a training step; zeros without a network."""
    family: Any = family_of(config.model)
    model = family(config.model, shape)
    if not hasattr(model, "initialise"):
        return 0.0, 0.0, 0.0
    from torch.utils.flop_counter import FlopCounterMode

    model.initialise(0)
    h, w, c = shape.record
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = model.net.to(device)

    def batch(n: int) -> tuple[Any, ...]:
        labels = torch.zeros(n, dtype=torch.long, device=device) if config.conditional else None
        return torch.randn(n, c, h, w, device=device), torch.zeros(n, dtype=torch.long, device=device), labels

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.predict(net, *batch(1))
    guided = 2 if config.sample.guidance_scale not in (0, 1) else 1
    sampled, trained = config.sample.batch_size * guided, config.train.batch_size
    with torch.no_grad():
        forward = _seconds(lambda: model.predict(net, *batch(sampled)), device) / sampled
    backward = _seconds(lambda: model.predict(net, *batch(trained)).square().mean().backward(), device) / trained
    # The optimiser, the average and the data cost about a tenth on top (measured on digits).
    return float(counter.get_total_flops()), forward, 1.1 * backward


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


def weights(costs: list[Cost]) -> dict[tuple[int, str], float]:
    """Expected seconds per (generation, stage), for the progress report."""
    return {(c.generation, c.stage): c.seconds for c in costs}
