"""The time of a pass of a network, in training and in sampling, measured on random inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from difflab.config import Sample, Train
from difflab.core.precision import TYPES
from difflab.loop.training_loop import attention


def training_seconds(model: Any, train: Train, device: str, patience: float = 4) -> float:
    """Seconds of one forward and backward pass per image, in the precision of `train`.

    Call `model.prepare_training` first. The gradients are deleted afterwards.
    """
    with autocast(train, device), attention(device, train.precision):
        seconds = per_image(
            lambda n: model.predict(model.net, *batch(model, n, device)).float().square().mean().backward(),
            train.micro_batch_size or train.batch_size,
            device,
            patience,
        )
    model.net.zero_grad(set_to_none=True)
    return seconds


@torch.no_grad()
def sampling_seconds(model: Any, sample: Sample, device: str, patience: float = 4) -> tuple[float, float]:
    """Seconds of one forward pass and of the decoding, per image.

    Call `model.prepare_sampling` first. A pass with guidance has two images per sample.
    """
    most = sample.batch_size * guided(sample)
    forward = per_image(lambda n: model.predict(model.net, *batch(model, n, device)), most, device, patience)
    latents = torch.randn(min(8, most), *model.drawn, device=device)
    finish = per_image(lambda n: model.finish(latents[:n]), len(latents), device, patience)
    return forward, finish


def guided(sample: Sample) -> int:
    """Passes of the network per sample and step: 2 with classifier-free guidance, else 1."""
    return 2 if sample.guidance_scale > 1 else 1


def autocast(train: Train, device: str) -> Any:
    """The autocast of torch that accelerate uses in training."""
    return torch.autocast(device, TYPES[train.precision], enabled=train.precision != "no")


def batch(model: Any, n: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Random inputs of `model.predict`: noisy images [n, C, H, W], timesteps [n], null conditions [n]."""
    conditions = torch.full((n,), model.null, device=device) if model.spec.conditional else None
    x, t = torch.randn(n, *model.drawn, device=device), torch.zeros(n, dtype=torch.long, device=device)
    return x, t, conditions


def per_image(work: Callable[[int], Any], most: int, device: str, patience: float = 4) -> float:
    """The shortest of three measured times of `work` on a batch, in seconds per image.

    Args:
        work: the work on a batch of the given size.
        most: size of the batch.
        device: the device of the work.
        patience: the measurement stops after about this many seconds. Slow work is measured on smaller
            batches and fewer times.
    """

    def seconds(n: int) -> float:
        started = time.perf_counter()
        work(n)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    seconds(1)  # warm-up
    one = seconds(1)
    n = min(most, int(patience / one / 2))
    if n <= 1:
        return one
    seconds(n)
    times = [seconds(n)]
    while len(times) < 3 and sum(times) < patience:
        times.append(seconds(n))
    return min(times) / n
