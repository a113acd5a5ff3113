"""The precision auto: what is measured, and what is decided from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from accelerate.state import AcceleratorState
from asking import Measured, config

from difflab.core.errors import ConfigError
from difflab.loop import checks, held_out, precision, training_loop
from difflab.loop.auto import choices
from difflab.loop.chain import run_chain
from difflab.loop.precision import accelerator_of, best, measured
from difflab.models import denoiser
from difflab.models.pixel_mlp import DenoisingMLP
from difflab.runs.record import read_record

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
        ({}, "no", "this network computes in float32"),
        ({"no": 3.0, "tf32": 2.0, "bf16": 1.0}, "bf16", "measured 3.00 times as fast as float32"),
        ({"no": 3.0, "tf32": 2.0, "bf16": 1.9}, "tf32", "measured 1.50 times as fast as float32"),
        ({"no": 3.0, "tf32": 2.9, "bf16": 1.5}, "bf16", "measured 2.00 times"),
        ({"no": 3.0, "tf32": 2.9, "bf16": 2.8}, "no", "bf16 was measured 1.07 times as fast as float32"),
        ({"no": 3.0, "tf32": 2.8, "bf16": 2.9}, "no", "tf32 was measured 1.07 times as fast as float32"),
        ({"no": float("inf"), "bf16": float("inf")}, "bf16", "not enough memory to measure float32"),
        (dict.fromkeys(("no", "tf32", "bf16"), float("inf")), "bf16", "not enough memory"),
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
    for kind, mixed, dtype in (
        ("no", "no", torch.float32),
        ("bf16", "bf16", torch.bfloat16),
        ("tf32", "no", torch.float32),
        ("no", "no", torch.float32),
    ):
        accelerator = accelerator_of(kind)
        assert accelerator.mixed_precision == mixed
        x = torch.ones(2, 2, device=accelerator.device)
        with accelerator.autocast():
            assert (x @ x).dtype == dtype
    assert accelerator_of("no").state.mixed_precision == "no"


def test_the_network_of_the_run_is_measured_and_random_numbers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "faster_precisions", lambda device: ("bf16",))
    before = torch.random.get_rng_state()
    seen: Measured = {}

    def remember(key: str, seconds: dict[str, float]) -> Any:
        seen[key] = seconds
        return best(key, seconds)

    monkeypatch.setattr(precision, "best", remember)
    choices(config())
    assert seen["train.precision"].keys() == {"no", "bf16"}
    assert seen["sample.precision"] == {}  # the pixel families sample in float32
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


@pytest.mark.parametrize("section", ["train", "sample"])
def test_tf32_is_measured_with_products_in_tf32(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that stands in for a GPU, because TF32 changes no result of a CPU."""
    blocks = set()

    @contextmanager
    def noted(kind: str, device: str) -> Iterator[None]:
        blocks.add((kind, device))
        yield

    monkeypatch.setattr(precision.passes, "products", noted)
    seconds = measured(config(), section, ("no", "tf32", "bf16"), "cpu")
    wanted = {"no", "tf32", "bf16"} if section == "train" else {"no", "tf32"}
    assert seconds.keys() == wanted and all(0 < value < float("inf") for value in seconds.values())
    assert blocks == {(kind, "cpu") for kind in wanted}


def test_a_device_without_tf32_does_not_measure_it() -> None:
    with pytest.raises(ConfigError, match="tf32 needs an NVIDIA GPU"):
        measured(config(), "train", ("no", "tf32"), "cpu")


def test_the_stages_of_a_run_compute_products_in_their_own_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a device that stands in for a GPU: which block is open while the network runs."""
    blocks: list[str] = []
    seen: dict[str, set[str]] = {"training": set(), "sampling": set(), "held-out loss": set()}

    @contextmanager
    def noted(kind: str, device: Any) -> Iterator[None]:
        blocks.append(kind)
        yield
        blocks.pop()

    forward = DenoisingMLP.forward

    def watched(self: Any, x: torch.Tensor, *args: Any) -> torch.Tensor:
        if torch.is_inference_mode_enabled():
            seen["sampling"] |= {*blocks}
        elif torch.is_grad_enabled():
            seen["training"] |= {*blocks}
        else:
            seen["held-out loss"] |= {*blocks}
        return forward(self, x, *args)

    for module in (training_loop, held_out, denoiser):
        monkeypatch.setattr(module, "products", noted)
    monkeypatch.setattr(checks, "refuse_without_tf32", lambda kind, device: None)
    monkeypatch.setattr(DenoisingMLP, "forward", watched)
    values = {"train.precision": "tf32", "sample.precision": "no", "measure.held_out_loss": 8}
    made = config(values)
    run_chain(made, tmp_path / "run", plots=False)
    assert seen == {"training": {"tf32"}, "held-out loss": {"tf32"}, "sampling": {"no"}} and not blocks
    assert read_record(tmp_path / "run" / "run.yaml").train.precision == "tf32"


def test_where_memory_runs_out_fewer_bits_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(works: dict[str, Any], most: int, device: str) -> dict[str, float]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(precision.passes, "race", full)
    seconds = measured(config(), "train", ("no", "bf16"), "cpu")
    assert set(seconds.values()) == {float("inf")} and best("train.precision", seconds).value == "bf16"
