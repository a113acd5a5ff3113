"""Measure the peak memory of a stage, and replace memory errors by a message with advice."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from difflab.core.errors import MemoryShort

SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
)  # parts of the messages of torch's allocators


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Yield a dict. After the block its key ``peak_gb`` is the peak memory in the block, in GB (10^9 bytes).

    On a GPU it is the memory of tensors, on a CPU the memory of the process. On Linux the peak of the process
    is reset at the start of the block. On other systems it is the peak since the start of the process.
    """
    out: dict[str, float] = {}
    gpu = device.type == "cuda"
    if gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    yield out
    if gpu:
        out["peak_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
    else:
        out["peak_gb"] = round(_peak_bytes() / 1e9, 3)


def _peak_bytes() -> int:
    """The peak memory of this process in bytes."""
    try:
        # ru_maxrss is not used on Linux, because it includes the memory of the parent process at the start.
        return next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def imports_frozen() -> Iterator[None]:
    """Leave the objects that exist at the start of the block out of garbage collections inside it.

    Most of them belong to imported libraries. Every training ends with a full collection, which visits each
    object: half a second of a CPU core for a chain of Stable Diffusion. Nothing changes if the process has
    frozen its objects before.
    """
    ours = gc.get_freeze_count() == 0
    if ours:
        gc.collect()  # what is garbage already would be kept
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


@contextmanager
def enough_memory(stage: str, advice: str) -> Iterator[None]:
    """Replace every memory error in the block by `MemoryShort` with a message of one line.

    Args:
        stage: the name of the stage, for the message.
        advice: which settings to change; "" = close other programs.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        text = str(error)
        is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not is_memory and not any(sign in text for sign in SIGNS):
            raise
        raise MemoryShort(
            f"not enough memory in stage {stage}: {advice or 'close other programs'}; use a new name if this "
            "changes the recipe"
        ) from error
