"""The precision auto: what is measured, and what is decided from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from accelerate.state import AcceleratorState
from asking import Measured, config

from difflab.loop import precision
from difflab.loop.auto import choices
from difflab.loop.precision import accelerator_of, best, measured

pytestmark = tiny.LIBRARIES


@pytest.fixture(autouse=True)
def _precision_of_the_next_test() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize(
    ("seconds", "value", "words"),
    [
        ({"no": 3.0, "bf16": 1.5}, "bf16", "measured 2.00 times as fast as float32"),
        ({"no": 1.11, "bf16": 1.0}, "bf16", "measured 1.11 times"),
        ({"no": 1.09, "bf16": 1.0}, "no", "bf16 was measured 1.09 times as fast as float32, and 1.1 is"),
        ({"no": 1.0, "bf16": 14.0}, "no", "0.07 times"),
        ({"no": 4.0, "bf16": 2.0, "fp16": 1.0}, "fp16", "4.00 times"),
        ({"no": 1.0}, "no", "this network computes in float32"),
        ({"no": float("inf"), "bf16": 0.0}, "bf16", "not enough memory to measure float32 beside it"),
    ],
)
def test_another_precision_must_be_clearly_faster_than_float32(
    seconds: dict[str, float], value: str, words: str
) -> None:
    choice = best("train.precision", seconds)
    assert choice.value == value and words in choice.reason
    assert str(choice).startswith(f"train.precision=auto: {value}")


def test_one_process_runs_in_one_precision_after_another() -> None:
    """Accelerate raises ValueError when it is asked for a second one."""
    for kind, dtype in (("no", torch.float32), ("bf16", torch.bfloat16), ("no", torch.float32)):
        accelerator = accelerator_of(kind)
        assert accelerator.mixed_precision == kind
        x = torch.ones(2, 2, device=accelerator.device)
        with accelerator.autocast():
            assert (x @ x).dtype == dtype
    assert accelerator_of("no").state.mixed_precision == "no"


def test_the_network_of_the_run_is_measured_and_random_numbers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_precisions", lambda device: ("bf16",))
    before = torch.random.get_rng_state()
    seen: Measured = {}

    def remember(key: str, seconds: dict[str, float]) -> Any:
        seen[key] = seconds
        return best(key, seconds)

    monkeypatch.setattr(precision, "best", remember)
    choices(config())
    assert seen["train.precision"].keys() == {"no", "bf16"}
    assert seen["sample.precision"].keys() == {"no"}  # the pixel families sample in float32
    assert all(value > 0 for seconds in seen.values() for value in seconds.values())
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}], ids=str)
def test_a_latent_model_is_measured_in_both_stages(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(precision.passes, "shape_of", lambda config: tiny_shape())
    base = tiny.make("sd15", tmp_path / "sd15")
    trained: dict[str, set[torch.dtype]] = {}
    frozen: dict[str, set[torch.dtype]] = {}

    def once(works: dict[str, Any], most: int, device: str) -> dict[str, float]:
        for name, work in works.items():
            work(1)
            if work.__name__ == "work":  # a training pass
                net = work.__closure__[[*work.__code__.co_freevars].index("model")].cell_contents.net
                trained[name] = {p.dtype for p in net.parameters() if p.grad is not None}
                frozen[name] = {p.dtype for p in net.parameters() if not p.requires_grad}
        return dict.fromkeys(works, 1.0)

    monkeypatch.setattr(precision.passes, "race", once)
    made = tiny.config("sd15", base, model=changes)
    for section in ("train", "sample"):
        assert measured(made, section, ("no", "bf16"), "cpu").keys() == {"no", "bf16"}
    assert trained == {"no": {torch.float32}, "bf16": {torch.float32}}  # what is trained stays float32
    if changes:
        assert frozen == {"no": {torch.float32}, "bf16": {torch.bfloat16}}


def tiny_shape() -> Any:
    from difflab.core.shape import Shape

    return Shape((tiny.SIDE, tiny.SIDE, 3), 3, ("a photograph",))


def test_where_memory_runs_out_fewer_bits_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(works: dict[str, Any], most: int, device: str) -> dict[str, float]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(precision.passes, "race", full)
    seconds = measured(config(), "train", ("no", "bf16"), "cpu")
    assert seconds["no"] == float("inf") and best("train.precision", seconds).value == "bf16"
