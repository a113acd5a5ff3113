from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from difflab.loop.gpu_advice import Change, Fit
from difflab.loop.gpu_memory import GIB, StageMemory
from difflab.report.memory import gpu_changes, gpu_stages, rows_of, verdict

BEFORE = [
    StageMemory("texts", 2 * GIB, note="only the files"),
    StageMemory("train", 20 * GIB, 3 * GIB, GIB, GIB),
]
AFTER = [StageMemory("texts", 2 * GIB), StageMemory("train", 5 * GIB)]
CHANGES = [Change("model.lora_rank=16", 20 * GIB, 6.5 * GIB)]


def shown(renderable: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(renderable)
    return out.getvalue()


def test_stages_and_changes_are_tables():
    fit = Fit(24, BEFORE, AFTER, CHANGES)
    lines = shown(gpu_stages(fit, "title")).splitlines()
    train = next(line for line in lines if "train" in line).split()
    assert train == ["train", "20.00", "3.00", "1.00", "1.00", "25.00", "26.50"]
    assert next(line for line in shown(gpu_changes(fit)).splitlines() if "lora" in line).split() == [
        "model.lora_rank=16",
        "20.00",
        "6.50",
    ]


@pytest.mark.parametrize(
    ("fit", "text"),
    [
        (Fit(80, BEFORE, BEFORE, []), "fits: stage train needs most, 26.50 of 80 GiB"),
        (Fit(24, BEFORE, AFTER, CHANGES), "does not fit 24 GiB, but with: model.lora_rank=16"),
        (Fit(4, BEFORE, AFTER, CHANGES), "does not fit 4 GiB, with these changes neither"),
    ],
)
def test_the_verdict_says_what_to_do(fit, text):
    assert verdict(fit).startswith(text)
    assert "texts: only the files" in verdict(fit) and "no estimate was compared" in verdict(fit)


def test_rows_for_json_are_bytes():
    rows = list(rows_of(Fit(24, BEFORE, AFTER, CHANGES, "a note")))
    assert rows[1] == {
        "stage": "train",
        "weights": 20 * GIB,
        "optimiser": 3 * GIB,
        "gradients": GIB,
        "activations": GIB,
        "peak": 25 * GIB,
        "needed": 26.5 * GIB,
        "note": "",
    }
    assert rows[2]["change"] == "model.lora_rank=16"
    assert rows[3] == {
        "gpu_gib": 24,
        "needed": 26.5 * GIB,
        "fits": False,
        "fits_with_changes": True,
        "note": "a note",
    }
