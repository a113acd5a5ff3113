"""Where a policy can act, which policies act there, and whether the policies of a config fit together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from difflab.core.errors import ConfigError
from difflab.policies.interface import At, Policy
from difflab.runs.folder import STAGE_TABLE

HOOKS = tuple(hook for stage in STAGE_TABLE for hook in stage.hooks)
"""Where a policy can act, in the order of a generation."""


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
