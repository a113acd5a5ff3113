"""Everything that is done against collapse, or for it: one small file per policy, combined freely in the list `policies` of a config.

    policies:
      - {policy: best_of, k: 4, reward: class_confidence}
      - {policy: guard, max_synthetic_fraction: 0.5}

A policy is a frozen spec (its fields, with unit and off value) whose methods are hooks: it acts where it overrides one. Those that share
a hook are asked in the order of the list. To add one, put a file into the folder of the stage where it acts, with a `Policy` under ``@policy("name")``; nothing else changes.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from typing import Any

from difflab.core.errors import ConfigError
from difflab.policies.policy import KNOWN, At, Policy

HOOKS = ("pools", "rows", "row_weights", "training", "trainer", "weights", "sampling", "steer", "select")
"""Where a policy can act, in the order of a generation."""

__all__ = ["HOOKS", "KNOWN", "At", "Policy", "acting", "known", "parse"]


def known() -> dict[str, type[Policy]]:
    """Every policy by its config name, from all files of this folder and those below."""
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return KNOWN


def parse(raw: Any) -> Policy:
    """One entry of the list `policies`: a mapping, or the name of a policy that needs no more. Raises ConfigError, listing the known ones."""
    from difflab import config

    raw = {"policy": raw} if isinstance(raw, str) else raw
    if isinstance(raw, Policy):
        return raw
    if not isinstance(raw, dict) or not isinstance(raw.get("policy"), str):
        raise ConfigError(
            f"policies: every entry is a mapping with the key 'policy', such as {{policy: unflagged}}; got {raw!r}"
        )
    name, names = raw["policy"], known()
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        raise ConfigError(
            f"policies: '{name}' is unknown; "
            + (f"did you mean '{near[0]}'? " if near else "")
            + f"known: {', '.join(sorted(names))}"
        )
    return config.parse(raw, f"policies: {name}", names[name])


def acting(hook: str, config: Any, generation: int, **shared: Any) -> Iterator[tuple[Policy, At]]:
    """The policies that act through `hook` in this generation, in order, each with where it stands (`shared`: the other fields of At)."""
    for position, own in enumerate(config.policies):
        if own.acts(hook, generation):
            yield own, At(generation=generation, position=position, config=config, **shared)


def check(config: Any) -> None:
    """Raise ConfigError where policies do not fit the config or contradict each other."""
    policies: Sequence[Policy] = config.policies
    for i, own in enumerate(policies):
        if own.last is not None and own.last < own.first:
            raise ConfigError(
                f"policies: {own.policy} acts from generation {own.first} to {own.last}, which is never"
            )
        if own.first > config.generations:
            raise ConfigError(
                f"policies: {own.policy} acts from generation {own.first} on, the chain ends with generation {config.generations}"
            )
        for k, earlier in enumerate(policies[:i]):
            both, t = (
                [what for what in own.decides() if what in earlier.decides()],
                own.meets(earlier, config.generations),
            )
            if both and t is not None:
                raise ConfigError(
                    f"policies: {earlier.policy} (entry {k + 1}) and {own.policy} (entry {i + 1}) both settle {both[0]} in generation {t}; "
                    "leave one out, or part their generations with first and last"
                )
        own.check(config)
