"""The record of a run, run.yaml: its config, the hash of its recipe and the versions of the packages."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import yaml

from difflab import config as configs
from difflab.config import Config
from difflab.core.errors import ConfigError, StoreError
from difflab.core.files import write_text
from difflab.core.hashing import digest

PACKAGES = ("difflab", "torch", "diffusers", "accelerate", "torchmetrics", "numpy", "pillow", "pyarrow")


def read_record(record: Path) -> Config:
    """The config in a run.yaml. Raises StoreError if the file is missing, damaged or not valid."""
    try:
        content = yaml.safe_load(record.read_text())
        return configs.parse(content["config"], str(record))
    except (yaml.YAMLError, TypeError, KeyError, ValueError, OSError, RecursionError) as error:
        raise StoreError(
            f"{record} is missing or damaged ({type(error).__name__}); put it back from a copy, or start a "
            "new run in another folder with --out"
        ) from error
    except ConfigError as error:
        raise StoreError(
            f"{error}; the file was changed or comes from another version: put it back from a copy, or start "
            "a new run in another folder with --out"
        ) from error


def write_record(record: Path, config: Config) -> None:
    """Write run.yaml.

    The versions that started the run stay under `versions`. Different versions that resume it are added under
    `resumed_with`.
    """
    now = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    content = {"config": config.model_dump(mode="json"), "recipe": recipe_hash(config), "versions": now}
    if record.exists():
        before = yaml.safe_load(record.read_text())
        content["versions"] = before.get("versions", now)
        resumed = before.get("resumed_with", [])
        if now not in (content["versions"], *resumed):
            resumed = [*resumed, now]
        if resumed:
            content["resumed_with"] = resumed
    write_text(record, yaml.safe_dump(content, sort_keys=False))


def check_stored_recipe(record: Path) -> Iterator[str]:
    """Yield a sentence if the recipe hash in run.yaml is not that of the config in it."""
    config, content = read_record(record), yaml.safe_load(record.read_text())
    if content.get("recipe") != recipe_hash(config):
        yield f"{record}: its recipe hash is not that of its config; put the file back from a copy"


def check_recipe(record: Path, config: Config) -> None:
    """Raise StoreError if the run of `record` has another recipe than `config`.

    The message names the keys that differ.
    """
    recorded, wanted = configs.recipe_of(read_record(record)), configs.recipe_of(config)
    differing = [
        key for key in sorted(recorded.keys() | wanted.keys()) if recorded.get(key) != wanted.get(key)
    ]
    if not differing:
        return
    shown = ", ".join(
        f"{key}: {recorded.get(key)!r} there, {wanted.get(key)!r} asked" for key in differing[:6]
    )
    more = f" and {len(differing) - 6} more" if len(differing) > 6 else ""
    folder = record.parent
    other = folder.with_name(f"{folder.name}-{recipe_hash(config)}")
    raise StoreError(
        f"{folder} contains a run of another recipe ({shown}{more}); choose another folder: --out {other}"
    )


def recipe_hash(config: Config) -> str:
    """Twelve hex digits: the hash of everything that determines a run's numbers."""
    return digest(configs.recipe_of(config))
