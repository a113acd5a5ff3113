"""Base classes from a library that takes seconds to import, and is imported for the first instance only.

`import torchmetrics` also imports transformers and torchvision where they are installed. The formula of a
measure needs none of them.
"""

from __future__ import annotations

from abc import ABC
from functools import cache
from importlib import import_module
from typing import Any, ClassVar


class _Deferred(ABC):
    """Stands for a class of `base` = (module, name). Instances inherit from it, see `deferred`."""

    base: ClassVar[tuple[str, str]]

    def __new__(cls, *args: Any, **kwargs: Any) -> _Deferred:
        return super().__new__(_joined(cls))

    def __reduce__(self) -> tuple[Any, ...]:  # a joined class has no place where pickle could find it
        return _instance, (type(self).__bases__[0],), self.__getstate__()


def deferred(module: str, name: str) -> type[_Deferred]:
    """A base class that stands for the class `name` of `module`.

    A subclass is an ordinary class, and `module` need not be imported for it. An instance of the subclass is
    an instance of the named class too, with its methods and its constructor. The first instance imports
    `module`. Instances can be copied and pickled.

    >>> class Options(deferred("argparse", "Namespace")):
    ...     def names(self): return sorted(vars(self))
    >>> Options(width=2, depth=1).names()
    ['depth', 'width']
    >>> from argparse import Namespace
    >>> isinstance(Options(), Options), isinstance(Options(), Namespace), issubclass(Options, Namespace)
    (True, True, False)
    """
    return type(name, (_Deferred,), {"base": (module, name)})


def _instance(cls: type[_Deferred]) -> _Deferred:
    return cls.__new__(cls)


@cache
def _joined(cls: type[_Deferred]) -> type[_Deferred]:
    """`cls` with the class that it stands for as a second base."""
    module, name = cls.base
    about = {key: getattr(cls, key) for key in ("__module__", "__qualname__", "__doc__")}
    return type(cls.__name__, (cls, getattr(import_module(module), name)), about)
