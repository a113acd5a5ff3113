"""The hooks of policies, the policies that act in each, and the check that policies fit together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from difflab.core.errors import ConfigError
from difflab.policies.interface import At, Policy
from difflab.runs.folder import STAGE_TABLE

HOOKS = tuple(chain.from_iterable(stage.hooks for stage in STAGE_TABLE))
"""The names of all hooks, in the order in which a generation calls them."""


def acting(hook: str, config: Any, generation: int, **shared: Any) -> Iterator[tuple[Policy, At]]:
    """Yield each policy that acts through `hook` in this generation, with its At, in the order of the list.

    `shared`: the other fields of At.
    """
    for position, policy in enumerate(config.policies):
        if policy.acts(hook, generation):
            yield policy, At(generation=generation, position=position, config=config, **shared)


def check(config: Any) -> None:
    """Raise ConfigError if policies do not fit the config or contradict each other."""
    policies: Sequence[Policy] = config.policies
    for i, policy in enumerate(policies):
        if policy.last is not None and policy.last < policy.first:
            raise ConfigError(
                f"policies: {policy.policy} would act from generation {policy.first} to {policy.last}, but "
                "last must not be below first"
            )
        if policy.first > config.generations:
            raise ConfigError(
                f"policies: {policy.policy} would act from generation {policy.first} on, but the chain ends "
                f"with generation {config.generations}"
            )
        for k, earlier in enumerate(policies[:i]):
            _check_pair(earlier, k + 1, policy, i + 1, config.generations)
        policy.check(config)


def _check_pair(earlier: Policy, entry: int, later: Policy, later_entry: int, generations: int) -> None:
    """Raise ConfigError if both policies set the same thing in one generation. Entries count from 1."""
    generation = earlier.meets(later, generations)
    decisions = [decision for decision in later.decides() if decision in earlier.decides()]
    if decisions and generation is not None:
        raise ConfigError(
            f"policies: {earlier.policy} (entry {entry}) and {later.policy} (entry {later_entry}) both set "
            f"{decisions[0]} in generation {generation}; remove one of them, or give them different "
            "generations with first and last"
        )
