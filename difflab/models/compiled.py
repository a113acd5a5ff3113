"""Compile a network with torch.compile, with compiled code that is kept on disk between processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from difflab.core.files import cache_home


def compiled_home() -> Path:
    """The folder of compiled code and of what compiling has taken and saved; see `cache_home`."""
    return cache_home() / "compiled"


def compile_network(net: torch.nn.Module, device: Any) -> None:
    """Compile a network in place. The work is done at the first pass of each shape.

    On a CPU the whole network is compiled: of tiny-sd that is 1.2 times as fast as compiled blocks. On other
    devices the repeated blocks of a diffusers model are compiled, which takes a fraction of the time. All
    networks of one architecture share the compiled code, so only the first generation of a process waits.
    Torch keeps the code in `compiled_home`, or in $TORCHINDUCTOR_CACHE_DIR if that is set.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compiled_home() / "code"))
    # A second batch size would otherwise be compiled for all sizes, which is slower than code for one size.
    blocks: Any = getattr(net, "_repeated_blocks", None)
    if torch.device(device).type != "cpu" and blocks:
        net.compile_repeated_blocks(dynamic=False)  # type: ignore[operator]
    else:
        net.compile(dynamic=False)
