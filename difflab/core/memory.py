"""Memory: how much a stage took, and what to lower when there was not enough."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from difflab.core.errors import MemoryShort

SIGNS = ("out of memory", "can't allocate memory", "not enough memory")  # how torch's allocators say it


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Yield a dict that holds ``peak_gb`` afterwards: the most memory that tensors took on a GPU, or that the
    process took on a CPU.

    Linux forgets the peak at the start; elsewhere it is the most that the process has ever taken.
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
    try:
        # Not ru_maxrss, which begins with what the launching process had taken.
        return next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def enough_memory(stage: str, advice: str) -> Iterator[None]:
    """Replace every library's error about memory by one sentence. The run can be resumed.

    Args:
        stage: what was under way, for the message.
        advice: what to set lower; "" = close other programs.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        text = str(error)
        is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not is_memory and not any(sign in text for sign in SIGNS):
            raise
        raise MemoryShort(
            f"not enough memory in stage {stage}: {advice or 'close other programs'}; under a new name where "
            "that "
            "changes the recipe"
        ) from error
