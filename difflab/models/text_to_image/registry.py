"""Finds the architectures: every module of this folder is imported, every concrete subclass is one."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from inspect import isabstract

from difflab.models import text_to_image
from difflab.models.text_to_image.architecture import Architecture


@cache
def architectures() -> dict[str, type[Architecture]]:
    """All architectures by the names of their pipeline classes."""
    for module in pkgutil.iter_modules(text_to_image.__path__):
        import_module(f"{text_to_image.__name__}.{module.name}")
    classes: dict[str, type[Architecture]] = {}
    for kind in _subclasses(Architecture):  # type: ignore[type-abstract]
        if not isabstract(kind):
            classes |= dict.fromkeys(kind.pipelines, kind)
    return classes


def pipelines_of(family: str) -> tuple[str, ...]:
    """The pipeline classes that a model family opens."""
    return tuple(name for name, kind in architectures().items() if kind.family == family)


def _subclasses(kind: type[Architecture]) -> list[type[Architecture]]:
    """All direct and indirect subclasses of `kind`, in the order of their definition."""
    below: list[type[Architecture]] = kind.__subclasses__()
    return below + [inner for one in below for inner in _subclasses(one)]
