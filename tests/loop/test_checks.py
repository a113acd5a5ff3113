"""What a chain finds out before anything is fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from difflab.config import merged, parse
from difflab.core.errors import ConfigError, MeasureError
from difflab.core.progress import Reporter
from difflab.loop import checks
from difflab.loop.chain import run_chain

DIGITS: dict[str, Any] = {
    "generations": 1,
    "data": {"source": "digits", "limit": 60},
    "model": {"family": "memoriser"},
    "sample": {"count": 20},
    "measure": {"metrics": ["recall"], "resamples": 0},
    "probe": {"per_condition": 0},
}


class Heard(Reporter):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"measure.metrics": ["recal"]}, "did you mean 'recall'"),
        ({"measure.extractors": ["pixls"]}, "did you mean 'pixels'"),
        ({"model": {"family": "pixel-mlp"}, "sample.scheduler": "DDIMSheduler"}, "DDIMScheduler"),
        ({"policies": [{"policy": "unflagged", "first": 5}]}, "the chain ends with generation 1"),
        (
            {"ecosystem": {"labs": 2, "lab": 1}},
            "which cannot run without the other labs: run the ecosystem's config",
        ),
    ],
)
def test_unknown_names_and_impossible_combinations_stop_before_anything_is_written(
    values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, MeasureError), match=words):
        run_chain(parse(merged(DIGITS, values)), tmp_path / "run", plots=False)
    assert not (tmp_path / "run").exists()


def test_fp16_wants_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    config = parse(merged(DIGITS, {"model": {"family": "pixel-mlp"}, "train.precision": "fp16"}))
    with pytest.raises(ConfigError, match="fp16 need a GPU"):
        checks.check(config)


@pytest.mark.parametrize("section", ["train", "sample"])
def test_tf32_wants_an_nvidia_gpu(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "device_type", lambda: "cpu")
    config = parse(merged(DIGITS, {"model": {"family": "pixel-mlp"}, f"{section}.precision": "tf32"}))
    with pytest.raises(ConfigError, match="tf32 needs an NVIDIA GPU") as refused:
        run_chain(config, tmp_path / "run", plots=False)
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()
    monkeypatch.setattr(checks, "device_type", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    checks.check(config)


def test_more_images_than_there_are_is_said_before_training(tmp_path: Path) -> None:
    config = parse(merged(DIGITS, {"measure.count": 500}))
    with pytest.raises(MeasureError, match=r"measure\.count 500"):
        run_chain(config, tmp_path / "run", plots=False)
    assert not list((tmp_path / "run").glob("gen-*"))


def test_a_measure_that_cannot_be_taken_is_said_once(tmp_path: Path) -> None:
    report = Heard()
    config = parse(merged(DIGITS, {"measure.metrics": ["recall", "class_accuracy"]}))
    run_chain(config, tmp_path / "run", report, plots=False)
    told = [line for line in report.lines if "class_accuracy" in line]
    assert (
        len(told) == 1
        and "a measure that has no value even between real images will be left out: " in told[0]
    )
    report.lines.clear()
    run_chain(config, tmp_path / "run", report, plots=False)
    assert [line for line in report.lines if "class_accuracy" in line] == []
