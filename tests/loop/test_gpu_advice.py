from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from difflab.loop import gpu_advice
from difflab.loop.gpu_advice import fit
from difflab.loop.gpu_memory import GIB, RESERVE, StageMemory

pytestmark = tiny.LIBRARIES


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny.make("sd3", tmp_path_factory.mktemp("base") / "sd3")


def memory(config: Any) -> list[StageMemory]:
    """An invented estimate: halved by each saving field that is set."""
    train, model, size = config.train, config.model, 32.0 * GIB
    size /= 2 if train.gradient_checkpointing else 1
    size /= 2 if train.micro_batch_size == 1 else 1
    size /= 2 if model.lora_rank else 1
    return [StageMemory("texts", 2 * GIB), StageMemory("train", size), StageMemory("sample", GIB)]


def test_a_run_that_fits_needs_no_change(base):
    found = fit(tiny.config("sd3", base), 24)
    assert found.fits and found.fits_with_changes and found.changes == []
    assert RESERVE < found.needed < RESERVE + GIB


def test_changes_come_in_order_until_the_run_fits(base, monkeypatch):
    monkeypatch.setattr(gpu_advice, "stages", memory)
    found = fit(tiny.config("sd3", base), 10)
    assert not found.fits and found.fits_with_changes
    assert [c.settings for c in found.changes] == [
        "train.gradient_checkpointing=true",
        "train.micro_batch_size=1",
    ]
    assert [c.saved / GIB for c in found.changes] == [16, 8]
    assert found.changes[-1].needed == 8 * GIB + RESERVE
    assert found.stages[1].peak == 32 * GIB and found.after[1].peak == 8 * GIB


def test_a_change_that_frees_nothing_is_left_out(base, monkeypatch):
    monkeypatch.setattr(gpu_advice, "stages", memory)
    found = fit(tiny.config("sd3", base, train={"gradient_checkpointing": True}), 5)
    assert [c.settings for c in found.changes] == ["train.micro_batch_size=1", "model.lora_rank=16"]
    assert not found.fits_with_changes and not found.note


def test_text_encoders_that_do_not_fit_are_named(base, monkeypatch):
    large = [StageMemory("texts", 40 * GIB), StageMemory("train", GIB)]
    monkeypatch.setattr(gpu_advice, "stages", lambda config: large)
    found = fit(tiny.config("sd3", base), 24)
    assert not found.fits and found.changes == []
    assert "the text encoders need 41.5 GiB" in found.note and "DIFFLAB_CACHE" in found.note


def test_settings_that_do_not_go_together_are_not_suggested(base, monkeypatch):
    """LoRA cannot start from random weights."""
    monkeypatch.setattr(gpu_advice, "stages", memory)
    config = tiny.config("sd3", base, train={"start_from": "scratch"})
    assert not [c for c in fit(config, 1).changes if "lora" in c.settings]
