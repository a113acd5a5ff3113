"""Validates a plain mapping as a spec. Errors name the key, the file and the nearest known key."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from difflab.core.errors import ConfigError, reading
from difflab.core.suggest import did_you_mean

# pydantic adds these to the location of an error, but they are not keys
UNION_MEMBERS = {"int", "list[int]"}


def parse(raw: Any, where: str, kind: Any) -> Any:
    """Validate a plain mapping as an instance of the spec class `kind`.

    Raises ConfigError. The message names `where`.
    """
    with reading(where, ConfigError, "correct it; configs/digits.yaml is an example"):
        try:
            return kind.model_validate(raw)
        except ValidationError as error:
            raise ConfigError("; ".join(_explain(e, where, kind) for e in error.errors())) from None


def spec_of(field: Any) -> Any:
    """The spec class of a section, also if the section may be null.

    None for a plain value and for a union of specs.
    """
    if field.discriminator is not None:
        return None
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _explain(error: Any, where: str, root: Any) -> str:
    """One error of pydantic as a sentence."""
    path = _keys_of(error["loc"], root)
    key = ".".join(path) or "config"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key '{key}'; {_known_keys(error['loc'], path[-1], root)}"
    if error["type"] == "missing":
        return f"{where}: '{key}' is missing"
    if error["type"].startswith("union_tag"):
        family = (error.get("ctx") or {}).get("tag")
        known = ", ".join(sorted(_members(root.model_fields["model"])))
        return f"{where}: 'model.family' is {family!r}; known families: {known}"
    message = error["msg"].removeprefix("Value error, ")
    if key == "config":
        return f"{where}: {message}"
    return f"{where}: '{key}': {message} (got {error['input']!r})"


def _keys_of(location: tuple[Any, ...], root: Any) -> list[str]:
    """The keys in the location of an error, without the member of a union that pydantic adds."""
    keys = []
    for depth, part in enumerate(location):
        is_family = depth == 1 and part in _members(root.model_fields.get(location[0]))
        if not is_family and part not in UNION_MEMBERS:
            keys.append(str(part))
    return keys


def _known_keys(location: tuple[Any, ...], last: str, root: Any) -> str:
    """A hint for an unknown key: the nearest key of this section, or the nearest key of the whole config."""
    spec: Any = root
    for part in location[:-1]:
        spec = _child(spec, str(part))
    here = sorted(spec.model_fields) if spec is not None else []
    hint = did_you_mean(last, here, 0.5) or did_you_mean(last, _all_keys(root))
    return hint or f"known keys here: {', '.join(here)}"


def _members(field: Any) -> dict[str, Any]:
    """Tag -> spec class of a field that is a union with a discriminator; {} for every other field."""
    if field is None or field.discriminator is None:
        return {}
    members = {}
    for spec in get_args(field.annotation):
        members[get_args(spec.model_fields[field.discriminator].annotation)[0]] = spec
    return members


def _child(parent: Any, part: str) -> Any:
    """The spec that one step of the location of an error leads to from `parent`; None for a plain value.

    A field with a discriminator leads to a dict of its members. The next step selects a member.
    """
    if isinstance(parent, dict):
        return parent.get(part)
    if parent is None or part not in parent.model_fields:
        return None
    field = parent.model_fields[part]
    return spec_of(field) if field.discriminator is None else _members(field)


def _all_keys(root: Any) -> list[str]:
    """The keys of every section, dotted."""
    keys = []
    for section, field in root.model_fields.items():
        keys.append(section)
        spec = spec_of(field)
        if spec is not None:
            keys += [f"{section}.{key}" for key in spec.model_fields]
    return keys
