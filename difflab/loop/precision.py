"""`train.precision` and `sample.precision` auto: the fastest precision, measured at the start of a run.

The network of the run is timed with random weights on random inputs, in float32 and in each precision that
the hardware has instructions for: TF32, and one with 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from difflab.config import Config
from difflab.core.precision import FLOAT32, TYPES, faster_precisions
from difflab.loop import passes
from difflab.loop.choice import Choice
from difflab.loop.one_pixel import strided_at_one_pixel
from difflab.models import family_of
from difflab.models.family import ClosedForm

FASTER = 1.1
"""A precision is kept unless a less accurate one is at least this many times as fast."""


def accelerator_of(precision: str) -> Accelerator:
    """The processes and their devices, on a GPU if there is one, with the autocast of a precision.

    Accelerate has one state per process and refuses a second precision, so the state of an earlier run with
    another precision is dropped. TF32 is no autocast (see `core.precision.products`).
    """
    precision = "no" if precision in FLOAT32 else precision
    cpu = not torch.accelerator.is_available()
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    # On a machine without a GPU, each of several processes would assume without cpu=True that it is alone.
    return Accelerator(cpu=cpu, mixed_precision=precision)


def choice(config: Config, key: str) -> Choice:
    """The precision of `key`, "train.precision" or "sample.precision".

    Raises DataError if the images cannot be read, and ConfigError if the base cannot be opened.
    """
    if issubclass(family_of(config.model), ClosedForm):
        return Choice(key, "no", f"{config.model.family} has no network")
    device = passes.device_type()
    faster = faster_precisions(device)
    if not faster:
        return Choice(key, "no", f"this machine ({device}) has no known instructions for products in 16 bits")
    section = key.partition(".")[0]
    with passes.without_traces(device):
        seconds = measured(config, section, ("no", *faster), device)
    return best(key, seconds)


def best(key: str, seconds: dict[str, float]) -> Choice:
    """The decision from measured seconds per image by precision.

    Args:
        key: the field.
        seconds: see `measured`. {} = the network has no other precision than float32. Infinite seconds mean
            that memory ran out.
    """
    if not seconds:
        return Choice(key, "no", "this network computes in float32 here, so nothing was measured")
    if seconds["no"] == float("inf"):
        fewest_bits = [*seconds][-1]
        return Choice(key, fewest_bits, "there was not enough memory to measure float32 beside it")
    chosen = "no"
    for precision, value in seconds.items():
        if seconds[chosen] / value >= FASTER:
            chosen = precision
    ratios = {p: f"{seconds['no'] / value:.2f} times as fast as float32" for p, value in seconds.items()}
    if chosen != "no":
        return Choice(key, chosen, f"measured {ratios[chosen]}")
    fastest = min([p for p in seconds if p != "no"], key=lambda precision: seconds[precision])
    return Choice(
        key, "no", f"{fastest} was measured {ratios[fastest]}, and {FASTER} is the least that counts"
    )


def measured(config: Config, section: str, precisions: Sequence[str], device: str) -> dict[str, float]:
    """Seconds per image of training or sampling in each precision, with random weights.

    A precision that the network does not use, or not rightly (see `one_pixel`), is left out. If only float32
    is left, nothing is measured: {}. The networks of all precisions are in memory at the same time. If memory
    runs out, all seconds are infinite.

    Args:
        precisions: float32 ("no") first, then the most accurate one first.
    """
    settings = getattr(config, section)
    try:
        changed = {p: settings.model_copy(update={"precision": p, "compile": False}) for p in precisions}
        models = {p: passes.random_model(config, section, changed[p], device) for p in precisions}
        if section == "train":
            if device == "cpu" and strided_at_one_pixel(models["no"], device):
                models.pop("bf16", None)
            if len(models) == 1:
                return {}
            passes_of = {p: passes.training_pass(model, changed[p], device) for p, model in models.items()}
            return passes.race(passes_of, settings.micro_batch_size or settings.batch_size, device)
        models = {p: model for p, model in models.items() if next(model.net.parameters()).dtype == TYPES[p]}
        if len(models) == 1:
            return {}
        model = models["no"]
        most = settings.batch_size * model.passes(settings)
        forwards = {p: passes.sampling_pass(m, device, p) for p, m in models.items()}
        forward = passes.race(forwards, most, device)
        decoding = {p: passes.decoding(m, device, p) for p, m in models.items()}
        finish = passes.race(decoding, min(passes.DECODED, most), device)
        steps = len(model.scheduler(settings).timesteps) * model.passes(settings)
        return {p: steps * forward[p] + finish[p] for p in models}
    except torch.OutOfMemoryError:
        return dict.fromkeys(precisions, float("inf"))
