"""Fields of a config whose value is auto: decided at the start of a run, and then kept.

The decision is written to run.yaml in place of auto, so it is part of the recipe, and a resumed run keeps it
on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from difflab.config import Config, parse
from difflab.core.errors import DifflabError
from difflab.core.hashing import digest
from difflab.loop import compiling, precision
from difflab.loop.choice import Choice, shown
from difflab.runs.record import read_record
from difflab.runs.run import Run

AUTO = "auto"
FIELDS = ("precision", "compile")
"""Fields that can be auto, in the order of the decisions: networks are compiled in their precision."""
SECTIONS = ("train", "sample")
Values = dict[str, str | bool]
"""The key of a field, such as "train.precision" -> its value instead of auto."""


# --------------------------------------------------------------------------------------- the config of a run
def asked(config: Config) -> dict[str, int]:
    """The keys whose value is auto, each with the first lab that has it."""
    found: dict[str, int] = {}
    for field, section in product(FIELDS, SECTIONS):
        for i, lab in enumerate(config.labs()):
            if getattr(getattr(lab, section), field) == AUTO:
                found.setdefault(f"{section}.{field}", i)
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


def settled(
    config: Config, path: Path | None, say: Callable[[str], None], compile_now: bool = True
) -> Config:
    """The config with the decision of the main process, see `decide`. All processes must call it.

    Raises the error of the decision in all processes, so that none waits for another.
    """
    if not asked(config):
        return config
    state = PartialState(cpu=not torch.accelerator.is_available())
    found: list[Any] = decide([(config, path)], say, compile_now) if state.is_main_process else [None]
    broadcast_object_list(found)
    if isinstance(found[0], DifflabError):
        raise found[0]
    return put(config, found[0])


def decide(
    runs: Sequence[tuple[Config, Path | None]], say: Callable[[str], None], compile_now: bool = True
) -> list[Values | DifflabError]:
    """The values of each run, given by its config and its folder; {} for a run that does not ask.

    A run that has started keeps its own values. All other runs of the same model get the same values, so that
    the arms of a study do not differ in them: those of a run that has started, or else measured ones. Whether
    compiling saves time is decided for all of them together.

    Args:
        runs: without a folder a run has not started.
        say: called once with each sentence about a decision.
        compile_now: whether a network may be compiled to measure it. If not, what is unknown is not compiled.

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
            said |= {f"{key}=auto: {shown(v)}, as when the run began": None for key, v in values.items()}
    for line in said:
        say(line)
    decided: list[Values | DifflabError] = []
    for (config, _), values in zip(runs, stored, strict=True):
        if values or not asked(config):
            decided.append(values)
            continue
        group = _group(config)
        if group not in known:
            sharing = [other for other, _ in runs if asked(other) and _group(other) == group]
            known[group] = _or_error(_chosen, sharing, say, compile_now)
        decided.append(known[group])
    return decided


def _or_error(work: Callable[..., Values], *args: Any) -> Values | DifflabError:
    """The result of `work`, or its DifflabError."""
    try:
        return work(*args)
    except DifflabError as error:
        return error


def _chosen(runs: Sequence[Config], say: Callable[[str], None], compile_now: bool) -> Values:
    """Measure, and report each decision."""
    found = choices(runs[0], runs, compile_now)
    for choice in found:
        say(str(choice))
    return {choice.key: choice.value for choice in found}


def choices(config: Config, runs: Sequence[Config] = (), compile_now: bool = True) -> list[Choice]:
    """A decision for each key that is auto. The labs of an ecosystem share it: that of the first such lab.

    Args:
        config: the config of a run.
        runs: all runs that share the decisions; empty = this one.
        compile_now: see `decide`.

    Raises DataError if the images cannot be read, and ConfigError if the base cannot be opened.
    """
    found: list[Choice] = []
    everyone = [lab for run in runs or [config] for lab in run.labs()]
    for key, i in asked(config).items():
        lab = put(config, {choice.key: choice.value for choice in found}).labs()[i]
        if key.endswith(".precision"):
            found.append(precision.choice(lab, key))
        else:
            found.append(compiling.choice(lab, key, everyone, compile_now))
    return found


def _group(config: Config) -> str:
    """What the runs with the same decision have in common: the model, and the keys that are auto."""
    return digest([config.model.model_dump(mode="json"), sorted(asked(config))])


def _stored(config: Config, path: Path | None) -> Values:
    """The values in run.yaml of a run that has started; {} if it has not, or if the config does not ask."""
    keys = asked(config)
    if not keys or path is None or not (path / "run.yaml").exists() or not Run(path, config).started:
        return {}
    labs = read_record(path / "run.yaml").labs()
    values: Values = {}
    for key, i in keys.items():
        section, _, field = key.partition(".")
        values[key] = getattr(getattr(labs[min(i, len(labs) - 1)], section), field)
    return values
