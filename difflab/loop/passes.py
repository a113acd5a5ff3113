"""The time of a pass of a network, in training and in sampling, measured on random inputs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from difflab.config import Config, Sample, Train
from difflab.core.precision import FLOAT32, TYPES, products
from difflab.core.seeds import seed_of
from difflab.core.shape import Shape
from difflab.data.registry import open_source
from difflab.loop.training_loop import attention
from difflab.models import family_of
from difflab.policies import acting

DECODED = 8
"""Images in a measured decoding."""
LONG = 0.2
"""Seconds of a pass that are enough for a comparison: its fixed costs, such as casts of weights, are a small
share.
"""
ROUNDS = 3
"""Passes of each work in a comparison."""


def device_type() -> str:
    """The type of torch's accelerator, such as "cuda"; "cpu" without one."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found else "cpu"


@contextmanager
def without_traces(device: str) -> Iterator[None]:
    """Restore torch's random numbers after the block, and free what the block used."""
    with torch.random.fork_rng([torch.cuda.current_device()] if device == "cuda" else []):
        yield
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def shape_of(config: Config) -> Shape:
    """The shape of a real image and the number of classes, with one caption in place of all.

    The source is opened, but no image is decoded. Raises DataError.
    """
    source = open_source(config.data, config.seed)
    prompts = ("a photograph",) if config.text and config.conditional else ()
    return Shape(source.record, len(source.classes or []), prompts)


def random_model(config: Config, section: str, settings: Any, device: str) -> Any:
    """A model with random weights, prepared for training or sampling with `settings`."""
    model: Any = family_of(config.model)(config.model, shape_of(config))
    model.encode_texts(settings, device)
    model.initialise(seed_of("precision"), scratch=True)
    (model.prepare_training if section == "train" else model.prepare_sampling)(settings, device)
    return model


def images_trained(config: Config, generation: int) -> int:
    """Images that the training of a generation sees."""
    if generation == 0 and config.model.starts_as_base:
        return 0
    settings = config.train
    for policy, at in acting("training", config, generation):
        settings = policy.training(at, settings)
    return settings.images_seen


def training_seconds(model: Any, train: Train, device: str) -> float:
    """Seconds of one forward and backward pass per image, in the precision of `train`.

    Call `model.prepare_training` first. The gradients are deleted afterwards.
    """
    most = train.micro_batch_size or train.batch_size
    seconds = per_image(training_pass(model, train, device), most, device)
    model.net.zero_grad(set_to_none=True)
    return seconds


@torch.no_grad()
def sampling_seconds(model: Any, sample: Sample, device: str) -> tuple[float, float]:
    """Seconds of one forward pass and of the decoding, per image.

    Call `model.prepare_sampling` first. A pass with guidance has two images per sample.
    """
    most = sample.batch_size * model.passes(sample)
    forward = per_image(sampling_pass(model, device, sample.precision), most, device)
    finish = decoding(model, device, sample.precision)
    return forward, per_image(finish, min(DECODED, most), device)


def training_pass(model: Any, train: Train, device: str) -> Callable[[int], None]:
    """A forward and backward pass on a batch of the given size, as in training: with autocast and the same
    attention. The gradients are added up.
    """

    def work(n: int) -> None:
        with (
            autocast(train, device),
            products(train.precision, device),
            attention(device, train.precision),
        ):
            model.predict(model.net, *batch(model, n, device)).float().square().mean().backward()

    return work


def sampling_pass(model: Any, device: str, precision: str) -> Callable[[int], Any]:
    """A forward pass on a batch of the given size, of a model that was prepared for `precision`."""

    @torch.no_grad()
    def forward(n: int) -> None:
        with products(precision, device):
            model.predict(model.net, *batch(model, n, device))

    return forward


def decoding(model: Any, device: str, precision: str) -> Callable[[int], Any]:
    """The decoding of at most DECODED images, by a model that was prepared for `precision`."""
    latents = torch.randn(DECODED, *model.drawn, device=device)

    @torch.no_grad()
    def finish(n: int) -> None:
        with products(precision, device):
            model.finish(latents[:n])

    return finish


def autocast(train: Train, device: str) -> Any:
    """The autocast of torch that accelerate uses in training."""
    return torch.autocast(device, TYPES[train.precision], enabled=train.precision not in FLOAT32)


def batch(model: Any, n: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Random inputs of `model.predict`: noisy images [n, C, H, W], timesteps [n], null conditions [n]."""
    conditions = torch.full((n,), model.null, device=device) if model.spec.conditional else None
    x, t = torch.randn(n, *model.drawn, device=device), torch.zeros(n, dtype=torch.long, device=device)
    return x, t, conditions


def seconds_of(work: Callable[[int], Any], n: int, device: str) -> float:
    """Seconds of `work` on a batch of size n."""
    started = time.perf_counter()
    work(n)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def per_image(work: Callable[[int], Any], most: int, device: str, patience: float = 4) -> float:
    """The shortest of three measured times of `work` on a batch, in seconds per image.

    Args:
        work: the work on a batch of the given size.
        most: size of the batch.
        device: the device of the work.
        patience: the measurement stops after about this many seconds. Slow work is measured on smaller
            batches and fewer times.
    """
    seconds_of(work, 1, device)  # warm-up
    one = seconds_of(work, 1, device)
    n = min(most, int(patience / one / 2))
    if n <= 1:
        return one
    seconds_of(work, n, device)
    times = [seconds_of(work, n, device)]
    while len(times) < 3 and sum(times) < patience:
        times.append(seconds_of(work, n, device))
    return min(times) / n


def race(works: dict[str, Callable[[int], Any]], most: int, device: str) -> dict[str, float]:
    """The shortest times of several works on batches of the same size, in seconds per image.

    The works take turns, so that other load on the machine meets all of them. Slow works have one turn.
    On a busy machine batches are smaller, and fixed costs count for more.

    Args:
        works: work by name. Its argument is the size of a batch.
        most: largest size of a batch. Smaller ones are used if they take LONG seconds already: the size is
            doubled until then, with the first work.
        device: the device of the works.
    """
    first, n = next(iter(works.values())), 1
    seconds_of(first, n, device)  # warm-up
    while n < most and min(seconds_of(first, n, device) for _ in range(2)) < LONG:
        n = min(2 * n, most)
    shortest = dict.fromkeys(works, float("inf"))
    spent = 0.0
    for _ in range(ROUNDS):
        if spent > 2 * ROUNDS * LONG * len(works):
            break
        for name, work in works.items():
            seconds = seconds_of(work, n, device)
            shortest[name], spent = min(shortest[name], seconds), spent + seconds
    return {name: seconds / n for name, seconds in shortest.items()}
