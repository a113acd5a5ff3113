"""`train.precision` and `sample.precision` auto: the fastest precision, measured at the start of a run.

The network of the run is timed with random weights on random inputs, in float32 and in each precision that
the hardware has instructions for. The decision is written to run.yaml in place of auto, so it is part of the
recipe, and a resumed run keeps it on any machine.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list

from difflab.config import Config, parse
from difflab.core.errors import DifflabError
from difflab.core.hashing import digest
from difflab.core.precision import TYPES, native_precisions
from difflab.core.seeds import seed_of
from difflab.core.shape import Shape
from difflab.data.registry import open_source
from difflab.loop import passes
from difflab.models import family_of
from difflab.models.family import ClosedForm
from difflab.runs.record import read_record
from difflab.runs.run import Run

AUTO = "auto"
SECTIONS = ("train", "sample")
FASTER = 1.1
"""float32 is kept unless another precision is at least this many times as fast."""
Values = dict[str, str]
"""The key of a precision, such as "train.precision" -> its value instead of auto."""


@dataclass(frozen=True)
class Choice:
    """A decision.

    Attributes:
        key: "train.precision" or "sample.precision".
        value: "no", "bf16" or "fp16".
        reason: why, for people.
    """

    key: str
    value: str
    reason: str

    def __str__(self) -> str:
        shown = f"{self.value} (float32)" if self.value == "no" else self.value
        return f"{self.key}=auto: {shown}, {self.reason}"


# --------------------------------------------------------------------------------------- the config of a run
def asked(config: Config) -> dict[str, int]:
    """The keys whose value is auto, each with the first lab that has it."""
    found: dict[str, int] = {}
    for i, lab in enumerate(config.labs()):
        for section in SECTIONS:
            if getattr(lab, section).precision == AUTO:
                found.setdefault(f"{section}.precision", i)
    return found


def put(config: Config, values: Values) -> Config:
    """The config, with `values` instead of auto, also in the overrides of the labs of an ecosystem."""
    if not values:
        return config
    raw = config.model_dump(mode="json")
    _put(raw, values, "")
    for overrides in (raw["ecosystem"] or {}).get("overrides", []):
        _put(overrides, values, "")
    return parse(raw, config.name)


def _put(node: dict[str, Any], values: Values, prefix: str) -> None:
    for name, value in node.items():
        key = prefix + name
        if isinstance(value, dict):
            _put(value, values, f"{key}.")
        elif value == AUTO and key in values:
            node[name] = values[key]


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


def settled(config: Config, path: Path | None, say: Callable[[str], None]) -> Config:
    """The config with the decision of the main process, see `decide`. All processes must call it.

    Raises the error of the decision in all processes, so that none waits for another.
    """
    if not asked(config):
        return config
    state = PartialState(cpu=not torch.accelerator.is_available())
    found: list[Any] = decide([(config, path)], say) if state.is_main_process else [None]
    broadcast_object_list(found)
    if isinstance(found[0], DifflabError):
        raise found[0]
    return put(config, found[0])


def decide(
    runs: Sequence[tuple[Config, Path | None]], say: Callable[[str], None]
) -> list[Values | DifflabError]:
    """The values of each run, given by its config and its folder; {} for a run that does not ask.

    A run that has started keeps its own values. All other runs of the same model get the same values, so that
    the arms of a study do not differ in precision: those of a run that has started, or else measured ones.

    Args:
        runs: without a folder a run has not started.
        say: called once with each sentence about a decision.

    In place of the values of a run that cannot be decided there is the error: DataError if its images cannot
    be read, ConfigError if its base cannot be opened, StoreError if its run.yaml is damaged.
    """
    known: dict[str, Values | DifflabError] = {}
    stored: list[Values | DifflabError] = []
    said: dict[str, None] = {}
    for config, path in runs:
        values = _or_error(_stored, config, path)
        stored.append(values)
        if values and not isinstance(values, DifflabError):
            known.setdefault(_group(config), values)
            said |= {f"{key}=auto: {value}, as when the run began": None for key, value in values.items()}
    for line in said:
        say(line)
    decided: list[Values | DifflabError] = []
    for (config, _), values in zip(runs, stored, strict=True):
        if values or not asked(config):
            decided.append(values)
            continue
        group = _group(config)
        if group not in known:
            known[group] = _or_error(_chosen, config, say)
        decided.append(known[group])
    return decided


def _or_error(work: Callable[..., Values], *args: Any) -> Values | DifflabError:
    """The result of `work`, or its DifflabError."""
    try:
        return work(*args)
    except DifflabError as error:
        return error


def _chosen(config: Config, say: Callable[[str], None]) -> Values:
    """Measure, and report each decision."""
    found = choices(config)
    for choice in found:
        say(str(choice))
    return {choice.key: choice.value for choice in found}


def _group(config: Config) -> str:
    """What the runs with the same decision have in common: the model, and the keys that are auto."""
    return digest([config.model.model_dump(mode="json"), sorted(asked(config))])


def _stored(config: Config, path: Path | None) -> Values:
    """The values in run.yaml of a run that has started; {} if it has not, or if the config does not ask."""
    keys = asked(config)
    if not keys or path is None or not (path / "run.yaml").exists() or not Run(path, config).started:
        return {}
    labs = read_record(path / "run.yaml").labs()
    return {
        key: getattr(labs[min(i, len(labs) - 1)], key.partition(".")[0]).precision for key, i in keys.items()
    }


# -------------------------------------------------------------------------------------------- measured speeds
def choices(config: Config) -> list[Choice]:
    """A decision for each key that is auto. The labs of an ecosystem share it: that of the first such lab.

    Raises DataError if the images cannot be read, and ConfigError if the base cannot be opened.
    """
    return [_choice(config.labs()[lab], key) for key, lab in asked(config).items()]


def _choice(config: Config, key: str) -> Choice:
    if issubclass(family_of(config.model), ClosedForm):
        return Choice(key, "no", f"{config.model.family} has no network")
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = found.type if found else "cpu"
    fewer = native_precisions(device)
    if not fewer:
        return Choice(key, "no", f"this machine ({device}) has no known instructions for products in 16 bits")
    section = key.partition(".")[0]
    with torch.random.fork_rng([torch.cuda.current_device()] if device == "cuda" else []):
        seconds = measured(config, section, ("no", *fewer), device)
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return best(key, seconds)


def best(key: str, seconds: dict[str, float]) -> Choice:
    """The decision from measured seconds per image by precision, which include "no".

    A precision without a number cannot be chosen. Infinite seconds mean that memory ran out.
    """
    others = {precision: value for precision, value in seconds.items() if precision != "no"}
    if not others:
        return Choice(key, "no", "this family computes in float32 here")
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

    A precision that the family does not use is left out. The networks of all precisions are in memory at the
    same time. If memory runs out, float32 has infinite seconds.
    """
    settings = getattr(config, section)
    try:
        models = {precision: _model(config, section, precision, device) for precision in precisions}
        if section == "train":
            passes_of = {
                precision: passes.training_pass(model, _with(settings, precision), device)
                for precision, model in models.items()
            }
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


def _with(settings: Any, precision: str) -> Any:
    """The section with another precision, not compiled."""
    return settings.model_copy(update={"precision": precision, "compile": False})


def _model(config: Config, section: str, precision: str, device: str) -> Any:
    """A model with random weights, prepared for training or sampling."""
    model: Any = family_of(config.model)(config.model, shape_of(config))
    model.initialise(seed_of("precision"), scratch=True)
    prepare = model.prepare_training if section == "train" else model.prepare_sampling
    prepare(_with(getattr(config, section), precision), device)
    return model


def shape_of(config: Config) -> Shape:
    """The shape of a real image and the number of classes, with one caption in place of all.

    The source is opened, but no image is decoded. Raises DataError.
    """
    source = open_source(config.data, config.seed)
    prompts = ("a photograph",) if config.text and config.conditional else ()
    return Shape((source.size, source.size, source.channels), len(source.classes or []), prompts)
