"""Memory: out-of-memory errors of every library become one sentence; other errors stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from difflab.core.errors import DifflabError, MemoryShort
from difflab.core.memory import enough_memory, peak_memory
from difflab.runs.folder import STAGE

SAID = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
        "to allocate 1000 bytes."
    ),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1000 bytes."),
]


@pytest.mark.parametrize("error", SAID, ids=lambda e: f"{type(e).__name__}-{str(e)[:20]}")
@pytest.mark.parametrize(
    ("stage", "keys"),
    [
        (
            "train",
            (
                "train.micro_batch_size",
                "train.gradient_checkpointing=true",
                "train.precision=bf16",
                "model.lora_rank",
            ),
        ),
        ("sample", ("sample.batch_size", "sample.precision=bf16")),
        ("measure", ("measure.count",)),
        ("mix", ("close other programs",)),
    ],
)
def test_what_to_lower_is_said(stage, keys, error):
    with (
        pytest.raises(MemoryShort, match=f"not enough memory in stage {stage}: ") as caught,
        enough_memory(stage, STAGE[stage].lower),
    ):
        raise error
    assert all(key in str(caught.value) for key in keys) and caught.value.__cause__ is error
    assert isinstance(caught.value, DifflabError)  # the command line prints it as one line
    assert "\n" not in str(caught.value)


def test_a_real_allocation_that_no_machine_has():
    with pytest.raises(MemoryShort, match="in stage train"), enough_memory("train", STAGE["train"].lower):
        torch.empty(2**60)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory"),
        KeyboardInterrupt(),
        RuntimeError(),
    ],
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, enough_memory("train", STAGE["train"].lower):
        raise error
    assert caught.value is error


def test_nothing_is_changed_where_memory_suffices():
    with enough_memory("train", STAGE["train"].lower):
        done = True
    assert done


def test_the_peak_of_a_cpu_is_that_of_the_process_in_gigabytes():
    with peak_memory(torch.device("cpu")) as before:
        pass
    with peak_memory(torch.device("cpu")) as peak:
        assert peak == {}  # known afterwards
        torch.ones(2**26)  # 256 MB
    assert 0.05 < before["peak_gb"] < peak["peak_gb"] < 100
    own = (
        int(
            next(
                line
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("VmHWM")
            ).split()[1]
        )
        * 1024
    )
    assert peak["peak_gb"] == pytest.approx(own / 1e9, rel=0.05)
    with peak_memory(torch.device("cpu")) as after:
        pass
    assert after["peak_gb"] < peak["peak_gb"] - 0.2  # each stage has its own


FREEZING = """
import gc, weakref
from difflab.core.memory import imports_frozen

class Cycle:
    def __init__(self):
        self.me = self

def dropped():
    cycle = Cycle()
    return weakref.ref(cycle)

gc.disable()
before = dropped()
with imports_frozen():
    assert before() is None  # garbage is collected first, and is not kept
    frozen, seen = gc.get_freeze_count(), len(gc.get_objects())
    assert frozen > 10_000 > seen, (frozen, seen)
    inside = dropped()
    gc.collect()
    assert inside() is None  # what the block leaves behind is collected as ever
    with imports_frozen():
        pass
    assert gc.get_freeze_count() == frozen  # a nested block ends nothing
assert gc.get_freeze_count() == 0
gc.freeze()
with imports_frozen():
    pass
assert gc.get_freeze_count() > 10_000  # what the caller has frozen stays frozen
"""


def test_imported_objects_are_left_out_of_collections_inside_the_block_only():
    subprocess.run([sys.executable, "-c", FREEZING], check=True)
