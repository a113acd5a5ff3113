"""`train.compile` and `sample.compile` auto: whether torch.compile saves more time than it takes.

Compiled code is kept on disk (`compiled_home`), and so is what a network gained and what compiling took. A
network that this machine has compiled before is decided from that. Another one is compiled for a trial if the
runs are long enough for it.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any

import torch

from difflab.config import Config
from difflab.core.errors import StoreError
from difflab.core.files import read_json, write_json
from difflab.core.hashing import digest
from difflab.core.progress import clock
from difflab.loop import passes
from difflab.loop.choice import Choice
from difflab.models import family_of
from difflab.models.compiled import compiled_home
from difflab.models.family import ClosedForm

EXPECTED_RATIO = 1.2
"""How many times as fast a compiled network is expected to be, before it was tried."""
EXPECTED_SECONDS = {"train": 0.5, "sample": 0.2}
"""Seconds that compiling is expected to take for each layer of a network, before it was tried."""
TURNS = 5
"""Passes of a trial, compiled and not compiled."""
WORTH = 2
"""A trial must be expected to save this many times the seconds that it takes."""


@dataclass(frozen=True)
class Speed:
    """What compiling a network gained on this machine.

    Attributes:
        eager: seconds of a pass per image, not compiled.
        compiled: the same, compiled.
        cold: seconds that compiling took the first time.
        warm: seconds that it takes to load compiled code from disk. Every process of a run does this once.
    """

    eager: float
    compiled: float
    cold: float
    warm: float

    @property
    def ratio(self) -> float:
        """How many times as fast the compiled network is."""
        return self.eager / self.compiled


def choice(config: Config, key: str, runs: Sequence[Config], compile_now: bool) -> Choice:
    """Whether the network is compiled for "train.compile" or "sample.compile".

    Args:
        config: the config of a chain, with its precision decided.
        key: the field.
        runs: the configs of all chains and labs that share the decision. Their passes are counted together.
        compile_now: whether the network may be compiled now to measure it.

    Raises DataError if the images cannot be read, and ConfigError if the base cannot be opened.
    """
    if issubclass(family_of(config.model), ClosedForm):
        return Choice(key, False, f"{config.model.family} has no network")
    section, device = key.partition(".")[0], passes.device_type()
    settings = getattr(config, section).model_copy(update={"compile": True})
    with passes.without_traces(device):
        model = passes.random_model(config, section, settings, device)
        work, batch = _work(model, section, settings, device)
        images = sum(images_passed(run, section, model) for run in runs)
        filled_up = sum(images_passed(run, section, model, whole_batches=True) for run in runs)
        facts = _facts(config, section, model, batch, device)
        speed = known(facts)
        if speed is None:
            with torch.compiler.set_stance("force_eager"):
                eager = passes.per_image(work, batch, device)
            layers = sum(1 for module in model.net.modules() if not list(module.children()))
            refused = not_worth_a_trial(images * eager, layers * EXPECTED_SECONDS[section])
            if refused or not compile_now:
                later = "the run tries it when it starts, because its passes take long enough"
                return Choice(key, False, refused or later)
            try:
                speed = measured(work, batch, device)
            except RuntimeError as error:  # also when memory runs out, or without a C++ compiler
                return Choice(key, False, f"torch.compile failed: {(str(error).splitlines() or [''])[0]}")
            remember(facts, speed)
    return best(key, speed, images, len(runs), filled_up)


def best(key: str, speed: Speed, images: float, runs: int, filled_up: float | None = None) -> Choice:
    """The decision from what compiling gained.

    Args:
        images: images that pass the network in all runs.
        runs: how often compiled code is loaded.
        filled_up: images that pass a compiled network, which takes whole batches only; None = as many.
    """
    compiled = images if filled_up is None else filled_up
    saved, cost = images * speed.eager - compiled * speed.compiled, runs * speed.warm
    gain = f"compiled code was measured {speed.ratio:.2f} times as fast"
    if saved <= cost:
        return Choice(
            key, False, f"{gain}, which saves {clock(max(saved, 0))} and takes {clock(cost)} to load"
        )
    return Choice(key, True, f"{gain}, which saves {clock(saved)} and takes {clock(cost)} to load")


def not_worth_a_trial(eager: float, compiling: float) -> str | None:
    """Why a network is not compiled for a trial, from the expected seconds; None = it is.

    Args:
        eager: seconds of all passes, not compiled.
        compiling: seconds that compiling takes.
    """
    saved = eager * (1 - 1 / EXPECTED_RATIO)
    if saved >= WORTH * compiling:
        return None
    first = clock(compiling)
    return f"all passes take about {clock(eager)}, and compiling for the first time takes about {first}"


def images_passed(config: Config, section: str, model: Any, whole_batches: bool = False) -> int:
    """Images that pass the network of a chain in training, or in sampling with all its steps.

    With `whole_batches` the last batch of samples is filled up.
    """
    generations = range(config.generations + 1)
    if section == "train":
        return sum(passes.images_trained(config, t) for t in generations)
    steps = len(model.scheduler(config.sample).timesteps) * model.passes(config.sample)
    batch = config.sample.batch_size if whole_batches else 1
    return steps * sum(-(-config.sample.count_of(t) // batch) * batch for t in generations)


def measured(work: Any, batch: int, device: str) -> Speed:
    """Compile a network that was prepared for it, and time its passes compiled and not compiled in turns.

    Args:
        work: a pass of the network on a batch of the given size.
        batch: size of the batches.
        device: the device of the network.
    """
    cold = passes.seconds_of(work, batch, device)
    shortest = {"eager": inf, "compiled": inf}
    for _ in range(TURNS):
        with torch.compiler.set_stance("force_eager"):
            shortest["eager"] = min(shortest["eager"], passes.seconds_of(work, batch, device))
        shortest["compiled"] = min(shortest["compiled"], passes.seconds_of(work, batch, device))
    torch.compiler.reset()  # as in a new process: the code is loaded from disk
    warm = passes.seconds_of(work, batch, device)
    compiled = shortest["compiled"]
    return Speed(
        shortest["eager"] / batch, compiled / batch, max(cold - compiled, 0), max(warm - compiled, 0)
    )


def _work(model: Any, section: str, settings: Any, device: str) -> tuple[Any, int]:
    """A pass of the network, and the images of its batches."""
    if section == "train":
        return passes.training_pass(model, settings, device), settings.micro_batch_size or settings.batch_size
    work = passes.sampling_pass(model, device, settings.precision)
    return work, settings.batch_size * model.passes(settings)


# ----------------------------------------------------------------------------------- what this machine knows
def _facts(config: Config, section: str, model: Any, batch: int, device: str) -> dict[str, Any]:
    """What the speed of a pass depends on."""
    settings = getattr(config, section)
    return {
        "machine": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "versions": [version("torch"), version("diffusers")],
        "model": config.model.model_dump(mode="json"),
        "drawn": model.drawn,
        "section": section,
        "precision": settings.precision,
        "checkpointing": getattr(settings, "gradient_checkpointing", False),
        "batch": batch,
    }


def _processor() -> str:
    """The name of the CPU, from /proc/cpuinfo where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _record() -> Path:
    return compiled_home() / "speeds.json"


def _stored() -> dict[str, dict[str, Any]]:
    """The record of this machine. A record that cannot be read counts as empty."""
    try:
        stored: dict[str, dict[str, Any]] = read_json(_record(), dict[str, dict[str, Any]])
    except StoreError:
        return {}
    return stored


def known(facts: dict[str, Any]) -> Speed | None:
    """What compiling gained the last time; None if the network is not in the record."""
    entry = _stored().get(digest(facts), {})
    try:
        return Speed(**{field.name: float(entry[field.name]) for field in fields(Speed)})
    except (KeyError, TypeError, ValueError):
        return None


def remember(facts: dict[str, Any], speed: Speed) -> None:
    """Add a speed to the record of this machine."""
    _record().parent.mkdir(parents=True, exist_ok=True)
    write_json(_record(), _stored() | {digest(facts): asdict(speed) | {"facts": facts}})
