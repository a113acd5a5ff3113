"""How long a pass takes: on a clock of the test, and what a pass computes in which precision."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import tiny
import torch

from difflab.config import Sample, Train, parse
from difflab.core.shape import Shape
from difflab.loop import passes
from difflab.models import family_of

pytestmark = tiny.LIBRARIES


@pytest.mark.parametrize(
    ("cost", "most", "batches"),
    [
        (0.001, 64, [1, 1, 64, 64, 64, 64]),  # cheap: the whole batch, once to warm up and three times
        (0.5, 64, [1, 1, 4, 4, 4]),  # as many images as half of the patience allows
        (30.0, 64, [1, 1]),  # one image is too much already
        (0.001, 1, [1, 1]),
    ],
)
def test_a_slow_network_is_timed_on_few_images(monkeypatch, cost, most, batches):
    clock, seen = [0.0], []

    def work(n):
        seen.append(n)
        clock[0] += cost * n

    monkeypatch.setattr(passes.time, "perf_counter", lambda: clock[0])
    assert passes.per_image(work, most, "cpu", patience=4) == pytest.approx(cost)
    assert seen == batches


@pytest.mark.parametrize(
    ("costs", "most", "n", "rounds"),
    [
        ({"a": 0.001, "b": 0.002}, 64, 64, 3),  # the whole batch is quick
        ({"a": 0.02, "b": 0.04}, 64, 16, 3),  # 8 images take 0.16 s, 16 take long enough
        ({"a": 0.02, "b": 0.04}, 5, 5, 3),
        ({"a": 30.0, "b": 10.0}, 64, 1, 1),  # one image takes longer than all rounds may
        ({"a": 0.001}, 1, 1, 3),
    ],
)
def test_works_race_in_turns_on_equal_batches(
    costs: dict[str, float], most: int, n: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, seen = [0.0], []

    def work(name: str, size: int) -> None:
        seen.append((name, size))
        busy = rounds > 1 and seen.count((name, size)) == 1  # something else runs at first
        clock[0] += (1.2 if busy else 1.0) * costs[name] * size

    monkeypatch.setattr(passes.time, "perf_counter", lambda: clock[0])
    found = passes.race({name: partial(work, name) for name in costs}, most, "cpu")
    assert found == pytest.approx(costs)
    turns = [(name, n) for name in costs]
    assert seen[-rounds * len(costs) :] == turns * rounds


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """(Largest batch, device) of every measurement; each runs one image and takes a quarter of a second."""
    seen: list[tuple[int, str]] = []

    def once(work: Any, most: int, device: str, patience: float = 4) -> float:
        work(1)
        seen.append((most, device))
        return 0.25

    monkeypatch.setattr(passes, "per_image", once)
    return seen


def mlp() -> Any:
    from difflab.config import parse

    spec = parse({"data": {"source": "digits"}, "model": {"family": "pixel-mlp", "width": 16}}).model
    model = family_of(spec)(spec, Shape((8, 8, 1), 10))
    model.initialise(0)
    return model


@pytest.mark.parametrize(("precision", "kind"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_a_training_pass_multiplies_in_its_precision_and_keeps_weights_and_gradients_in_float32(
    precision: str, kind: torch.dtype, calls: list[tuple[int, str]]
) -> None:
    model, train = mlp(), Train(batch_size=64, micro_batch_size=16, precision=precision)
    model.prepare_training(train, "cpu")
    linear = next(m for m in model.net.modules() if isinstance(m, torch.nn.Linear))
    outputs, gradients = [], []
    linear.register_forward_hook(lambda module, inputs, output: outputs.append(output.dtype))
    for p in model.net.parameters():
        p.register_post_accumulate_grad_hook(lambda p: gradients.append(p.grad.dtype))
    assert passes.training_seconds(model, train, "cpu") == 0.25 and calls == [(16, "cpu")]
    assert outputs == [kind] and set(gradients) == {torch.float32}
    assert {p.dtype for p in model.net.parameters()} == {torch.float32}
    assert all(p.grad is None for p in model.net.parameters())


@pytest.mark.parametrize(("scale", "factor"), [(0.0, 1), (1.0, 1), (3.0, 2)])
def test_a_pass_with_guidance_has_two_images_per_sample(
    scale: float, factor: int, calls: list[tuple[int, str]]
) -> None:
    model, sample = mlp(), Sample(batch_size=20, guidance_scale=scale)
    model.prepare_sampling(sample, "cpu")
    assert passes.sampling_seconds(model, sample, "cpu") == (0.25, 0.25)
    assert calls == [(20 * factor, "cpu"), (8, "cpu")] and model.passes(sample) == factor


def test_attention_of_training_is_that_of_the_loop() -> None:
    """In bf16 on a CPU the fused attention would be timed, which a training does not use."""
    from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends

    seen = []
    model = mlp()
    model.net.register_forward_hook(lambda *args: seen.append(_cur_sdpa_kernel_backends()))
    for precision in ("bf16", "no"):
        train = Train(precision=precision)
        model.prepare_training(train, "cpu")
        passes.training_pass(model, train, "cpu")(1)
    assert seen[0] == [SDPBackend.MATH] and len(seen[1]) > 1


def test_the_shape_is_that_of_the_real_images() -> None:
    digits = parse({"data": {"source": "digits"}, "model": {"family": "pixel-mlp"}})
    shape = passes.shape_of(digits)
    assert (shape.record, shape.classes, shape.prompts) == ((8, 8, 1), 10, ())
