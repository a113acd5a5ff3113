"""What every section of a config is: a frozen, strict pydantic model."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from difflab.core.errors import ConfigError

# YAML 1.1 reads a bare no as false.
Precision = Annotated[
    Literal["no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)
]


class Spec(BaseModel):
    """A section of a config: unknown keys, wrong types and infinite numbers are errors; instances are
    immutable.
    """

    # strict: `seed: true` or `batch_size: "128"` is a slip of the pen, and the JSON schema refuses it too.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, protected_namespaces=(), allow_inf_nan=False
    )


def read_by(*stages: str) -> dict[str, Any]:
    """The mark of a config field: the stages whose results depend on it.

    A stage is "real" (the real set), one of the five stages of a generation, or "policies" (the stages in
    which the policies act). A field without its own mark has that of its section. A field that is read by no
    stage changes no number: it is not part of the recipe.
    """
    return {"read_by": list(stages)}


def merged(raw: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a plain mapping with the values of dotted keys set.

    Raises ConfigError where a key leads through a value.
    """
    out = copy.deepcopy(raw)
    for key, value in values.items():
        set_key(out, key, copy.deepcopy(value))
    return out


def set_key(raw: dict[str, Any], key: str, value: Any, where: str | None = None) -> None:
    node = raw
    *parents, leaf = key.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{where or key}: {parent} is not a section")
    node[leaf] = value
