"""The base class of every section of a config: a frozen, strict pydantic model."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from difflab.core.errors import ConfigError

# YAML 1.1 reads a bare no as false.
Precision = Annotated[
    Literal["no", "tf32", "bf16", "fp16", "auto"],
    BeforeValidator(lambda value: "no" if value is False else value),
]
Compile = bool | Literal["auto"]


class Spec(BaseModel):
    """A section of a config.

    Unknown keys, wrong types and infinite numbers are errors. Instances are immutable.
    """

    # strict: `seed: true` or `batch_size: "128"` is a mistake, and the JSON schema refuses it too.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, protected_namespaces=(), allow_inf_nan=False
    )


def read_by(*stages: str) -> dict[str, Any]:
    """Mark a config field with the stages whose results depend on it.

    A stage is "real" (the real set), one of the five stages of a generation, or "policies" (the stages in
    which the policies act). A field without its own mark has that of its section. A field that no stage reads
    does not change the results, so it is not part of the recipe.
    """
    return {"read_by": list(stages)}


def merged(raw: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a plain mapping in which the dotted keys are set to their values.

    Raises ConfigError if a part of a key other than the last names a value instead of a section.
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
