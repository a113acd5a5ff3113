"""Reads a config from YAML, with dotted key=value overrides from the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from difflab.config import validate
from difflab.config.schema import Config
from difflab.config.spec import set_key
from difflab.core.errors import ConfigError, DataError, reading
from difflab.core.files import read_text


class Loader(yaml.SafeLoader):
    """A safe YAML loader that reads 1e-3 as a number and refuses a repeated key.

    PyYAML would silently keep the last value of a repeated key.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [
            self.construct_object(key, deep=True)
            for key, _ in node.value
            if key.tag != "tag:yaml.org,2002:merge"
        ]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"key '{twice}' is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(path: str | Path, overrides: list[str] | None = None, kind: Any = Config) -> Any:
    """Read a YAML config, or the config in the run.yaml of a run, and apply ``a.b=value`` overrides.

    Raises ConfigError. The message names the key, the file and the nearest known key.
    """
    path = Path(path)
    with reading(f"config {path}", ConfigError, "correct it; configs/digits.yaml is an example"):
        try:
            raw = yaml.load(read_text(path), Loader)
        except DataError as error:
            raise ConfigError(f"config {error}") from error
        except (yaml.YAMLError, ValueError) as error:  # an impossible date is a ValueError
            raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path} is not a mapping of keys to values; see configs/digits.yaml for an example"
        )
    if {"config", "recipe"} <= raw.keys() and isinstance(raw["config"], dict):
        raw = raw["config"]
    for override in overrides or []:
        apply_override(raw, override)
    return parse(raw, str(path), kind)


def parse(raw: dict[str, Any], where: str = "config", kind: Any = Config) -> Any:
    """Validate a plain mapping as an instance of `kind`, by default the config of a chain.

    Raises ConfigError. The message names `where`.
    """
    return validate.parse(raw, where, kind)


def apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"override '{override}' is not of the form key=value, for example train.images_seen=50000"
        )
    with reading(
        f"override '{override[:80]}'", ConfigError, "give a plain value, for example train.images_seen=50000"
    ):
        try:
            value = yaml.load(text, Loader)
        except (yaml.YAMLError, ValueError) as error:  # an impossible date is a ValueError
            raise ConfigError(f"override '{override}': the value is not valid YAML") from error
    set_key(raw, key, value, f"override '{override}'")
