"""Find the first layer whose output is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def watched(*networks: Any) -> Iterator[list[str]]:
    """Yield a list that receives the name of the first layer with a non-finite output while the block runs.

    Each output of each layer is checked, which is slow: run a single pass inside the block. A compiled
    network runs eagerly in the block, because compiled code does not call the hooks of its layers.
    """
    nonfinite_layers: list[str] = []

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if not nonfinite_layers and isinstance(output, torch.Tensor) and not output.isfinite().all():
                nonfinite_layers.append(name)

        return hook

    handles = []
    for network in networks:
        for name, module in network.named_modules():
            if not list(module.children()):
                handles.append(module.register_forward_hook(hook_of(name)))
    try:
        with torch.compiler.set_stance("force_eager"):
            yield nonfinite_layers
    finally:
        for handle in handles:
            handle.remove()


def named(nonfinite_layers: list[str]) -> str:
    """ ", first in layer NAME" for an error message; "" if no layer was found."""
    return f", first in layer {nonfinite_layers[0]}" if nonfinite_layers else ""
