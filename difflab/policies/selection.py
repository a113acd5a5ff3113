"""Stage 4, select: which samples may train later generations. What is dropped stays in the ledger with its reason."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable

import pyarrow as pa

from difflab import policies
from difflab.errors import ConfigError

# A policy maps the ledger columns (no image bytes) of one generation's samples to one reason per row: None keeps it, a text drops it.
Policy = Callable[[pa.Table], list[str | None]]
POLICIES: dict[str, Policy] = {}


def selection(name: str) -> Callable[[Policy], Policy]:
    """Register a selection policy under its config name."""

    def register(policy: Policy) -> Policy:
        POLICIES[name] = policy
        return policy

    return register


def policy_of(name: str) -> Policy:
    """The policy of this name, from any file of this folder. Raises ConfigError that lists the known ones."""
    for module in pkgutil.iter_modules(policies.__path__):
        importlib.import_module(f"difflab.policies.{module.name}")
    if name not in POLICIES:
        near = difflib.get_close_matches(name, POLICIES, 1)
        raise ConfigError(
            f"select.policy '{name}' is unknown" + (f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(sorted(POLICIES))}")
        )
    return POLICIES[name]


@selection("all")
def keep_all(rows: pa.Table) -> list[str | None]:
    """Every sample is kept."""
    return [None] * len(rows)


@selection("unflagged")
def keep_unflagged(rows: pa.Table) -> list[str | None]:
    """Images flagged as degenerate (of one colour) are dropped."""
    return rows["flag"].to_pylist()
