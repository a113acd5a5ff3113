"""Which layer a number that is not finite comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def watched(*networks: Any) -> Iterator[list[str]]:
    """Yield a list that gets the name of the first layer whose output is not finite while the block runs; it costs time."""
    found: list[str] = []

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: Any, given: Any, out: Any) -> None:
            if not found and isinstance(out, torch.Tensor) and not out.isfinite().all():
                found.append(name)

        return hook

    leaves = [(name, m) for net in networks for name, m in net.named_modules() if not list(m.children())]
    hooks = [module.register_forward_hook(hook_of(name)) for name, module in leaves]
    try:
        yield found
    finally:
        for handle in hooks:
            handle.remove()


def named(found: list[str]) -> str:
    """', first in layer NAME', or nothing."""
    return f", first in layer {found[0]}" if found else ""
