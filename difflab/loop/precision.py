"""`train.precision` and `sample.precision` auto: the fastest precision, measured at the start of a run.

The network of the run is timed with random weights on random inputs, in float32 and in each precision that
the hardware has instructions for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from difflab.config import Config
from difflab.core.precision import TYPES, native_precisions
from difflab.loop import passes
from difflab.loop.choice import Choice
from difflab.loop.one_pixel import strided_at_one_pixel
from difflab.models import family_of
from difflab.models.family import ClosedForm

FASTER = 1.1
"""float32 is kept unless another precision is at least this many times as fast."""


def accelerator_of(precision: str) -> Accelerator:
    """The processes and their devices, on a GPU if there is one, with the autocast of a precision.

    Accelerate has one state per process and refuses a second precision, so the state of an earlier run with
    another precision is dropped.
    """
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
    fewer = native_precisions(device)
    if not fewer:
        return Choice(key, "no", f"this machine ({device}) has no known instructions for products in 16 bits")
    section = key.partition(".")[0]
    with passes.without_traces(device):
        seconds = measured(config, section, ("no", *fewer), device)
    return best(key, seconds)


def best(key: str, seconds: dict[str, float]) -> Choice:
    """The decision from measured seconds per image by precision, which include "no".

    A precision without a number cannot be chosen. Infinite seconds mean that memory ran out.
    """
    others = {precision: value for precision, value in seconds.items() if precision != "no"}
    if not others:
        return Choice(key, "no", "this network computes in float32 here")
    fastest = min(others, key=lambda precision: others[precision])
    if seconds["no"] == float("inf"):
        return Choice(key, fastest, "there was not enough memory to measure float32 beside it")
    ratio = seconds["no"] / others[fastest]
    measured_ratio = f"measured {ratio:.2f} times as fast as float32"
    if ratio < FASTER:
        return Choice(key, "no", f"{fastest} was {measured_ratio}, and {FASTER} is the least that counts")
    return Choice(key, fastest, measured_ratio)


def measured(config: Config, section: str, precisions: Sequence[str], device: str) -> dict[str, float]:
    """Seconds per image of training or sampling in each precision, with random weights.

    A precision that the network does not use, or not rightly (see `one_pixel`), is left out. The networks of
    all precisions are in memory at the same time. If memory runs out, float32 has infinite seconds.
    """
    settings = getattr(config, section)
    try:
        changed = {p: settings.model_copy(update={"precision": p, "compile": False}) for p in precisions}
        models = {p: passes.random_model(config, section, changed[p], device) for p in precisions}
        if section == "train":
            if device == "cpu" and strided_at_one_pixel(models["no"], device):
                return {"no": 1.0}
            passes_of = {p: passes.training_pass(model, changed[p], device) for p, model in models.items()}
            return passes.race(passes_of, settings.micro_batch_size or settings.batch_size, device)
        models = {p: model for p, model in models.items() if next(model.net.parameters()).dtype == TYPES[p]}
        most, model = settings.batch_size * passes.guided(settings), models["no"]
        forward = passes.race({p: passes.sampling_pass(m, device) for p, m in models.items()}, most, device)
        decoding = {p: passes.decoding(m, device) for p, m in models.items()}
        finish = passes.race(decoding, min(passes.DECODED, most), device)
        steps = len(model.scheduler(settings).timesteps) * passes.guided(settings)
        return {p: steps * forward[p] + finish[p] for p in models}
    except torch.OutOfMemoryError:
        return dict.fromkeys(precisions, 0.0) | {"no": float("inf")}
