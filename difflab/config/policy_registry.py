"""The registry of policies. It reads the list `policies` of a config without importing the libraries that
policies use.

The modules of policies are imported when a name is first looked up. These are all files below
`difflab/policies`, and the modules that other installed packages name under the entry point group
``difflab.policies``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import Field

from difflab.config.spec import Spec
from difflab.config.validate import parse
from difflab.core.errors import ConfigError
from difflab.core.suggest import nearest

GROUP = "difflab.policies"


class PolicySpec(Spec):
    """The settings that every policy has. A policy adds its own fields and its hooks."""

    policy: str = Field(description="Name of the policy.")
    first: int = Field(0, ge=0, description="First generation in which the policy acts.")
    last: int | None = Field(
        None,
        ge=0,
        description="Last generation in which the policy acts; null = the last generation of the chain.",
    )


KNOWN: dict[str, type[PolicySpec]] = {}
P = TypeVar("P", bound=type[PolicySpec])


def policy(name: str) -> Callable[[P], P]:
    """Class decorator that registers a policy under its config name.

    Raises ValueError if another class has this name.
    """

    def register(cls: P) -> P:
        if name in KNOWN and KNOWN[name].__qualname__ != cls.__qualname__:
            raise ValueError(
                f"policy '{name}' is defined twice: {KNOWN[name].__qualname__} and {cls.__qualname__}"
            )
        KNOWN[name] = cls
        return cls

    return register


def known() -> dict[str, type[Any]]:
    """All policies by config name: those of difflab, and those that other installed packages register.

    Raises ConfigError if the policies of a package cannot be imported. The message names the package.
    """
    _import_all("difflab.policies")
    for point in entry_points(group=GROUP):
        try:
            _import_all(point.value)
        except Exception as error:
            raise ConfigError(
                f"the policies of the installed package {point.dist.name if point.dist else point.value} "
                f"cannot be imported: {type(error).__name__}: {error}"
            ) from error
    return KNOWN


def _import_all(name: str) -> None:
    """Import a module and, if it is a package, every module below it."""
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{name}."):
        importlib.import_module(found.name)


def parse_policy(raw: Any) -> Any:
    """Parse one entry of the list `policies`: a mapping, or a name if all fields of the policy have
    defaults.

    Raises ConfigError. The message for an unknown name lists the known policies.
    """
    if isinstance(raw, PolicySpec):
        return raw
    entry = {"policy": raw} if isinstance(raw, str) else raw
    if not isinstance(entry, dict) or not isinstance(entry.get("policy"), str):
        raise ConfigError(
            "policies: every entry must be a mapping with the key 'policy', such as {policy: unflagged}; "
            f"got {entry!r}"
        )
    name, specs = entry["policy"], known()
    if name not in specs:
        raise ConfigError(f"policies: '{name}' is unknown; {nearest(name, sorted(specs))}")
    return parse(entry, f"policies: {name}", specs[name])
