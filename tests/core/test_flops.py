"""Model FLOPs utilisation: FLOPs counted by hand, peaks of data sheets, None for unknown devices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from difflab.config import Train, parse
from difflab.core import flops as mfus
from difflab.core.flops import PEAKS, forward_flops, mfu, peak
from difflab.core.shape import Shape
from difflab.models.pixel_mlp import PixelMLP


@pytest.fixture(autouse=True)
def _forget():
    peak.cache_clear()
    yield
    peak.cache_clear()


class Counted:
    """A model of known cost: two convolutions, the second at half the side."""

    drawn, null, spec = (3, 8, 8), 0, SimpleNamespace(conditional=False)

    def __init__(self) -> None:
        self.net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 7, 2, stride=2))
        self.given: list[Any] = []

    def predict(
        self, net: Any, x: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor | None
    ) -> torch.Tensor:
        self.given.append((tuple(x.shape), conditions))
        return net(x)


def test_flops_of_one_image_by_hand():
    model = Counted()
    by_hand = 2 * (8 * 8 * 5 * 3 * 3 * 3) + 2 * (
        4 * 4 * 7 * 5 * 2 * 2
    )  # a multiplication and an addition each
    assert forward_flops(model) == by_hand
    assert model.given == [((1, 3, 8, 8), None)]
    wider = Counted()
    wider.net[1] = nn.Conv2d(5, 9, 2, stride=2)
    assert forward_flops(Counted()) == by_hand and forward_flops(wider) > by_hand
    assert len(wider.given) == 1


def test_flops_of_a_perceptron_are_those_of_its_matrices():
    config = parse({"model": {"family": "pixel-mlp", "width": 16, "depth": 2}}).model
    model = PixelMLP(config, Shape((4, 4, 1), 3))
    model.initialise(0)
    model.prepare_training(Train(), "cpu")
    matrices = sum(
        2 * m.in_features * m.out_features for m in model.net.modules() if isinstance(m, nn.Linear)
    )
    assert forward_flops(model) == matrices > 0
    assert all(p.grad is None for p in model.net.parameters())


def test_a_peak_of_a_cpu_is_measured_once(monkeypatch):
    first = peak("cpu", "no")
    assert first is not None and 1e8 < first < 1e14

    def slow(*args: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(mfus.time, "perf_counter", slow)
    assert peak("cpu", "no") == first


def timed(*seconds: float) -> SimpleNamespace:
    """A clock between whose readings these seconds pass in turn, and none in between."""
    now, ticks = 0.0, []
    for spent in seconds:
        ticks += [now, now + spent]
        now += spent
    return SimpleNamespace(perf_counter=iter(ticks).__next__)


def test_the_peak_is_what_the_fastest_product_takes(monkeypatch):
    monkeypatch.setattr(mfus, "time", timed(*[0.01] * 6, 0.09, 0.02, 0.09, 0.09, 0.09, 0.09))
    assert peak("cpu", "no") == pytest.approx(2 * 1024**3 / 0.02)


def test_a_processor_that_is_slow_at_a_precision_is_not_asked_for_large_products(monkeypatch):
    monkeypatch.setattr(mfus, "time", timed(0.5))  # one small product, and no more
    assert peak("cpu", "bf16") == pytest.approx(2 * 256**3 / 0.5)


@pytest.mark.parametrize(
    ("name", "sixteen", "thirty_two"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12, 494e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 156e12),
        ("Tesla T4", 65e12, 8.1e12),
        ("NVIDIA GeForce RTX 4090", 165e12, 82.6e12),
    ],
)
def test_peaks_of_cards_by_their_data_sheets(name, sixteen, thirty_two, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *args: name)
    assert [peak("cuda", p) for p in ("bf16", "fp16", "no")] == [sixteen, sixteen, thirty_two]


def test_a_card_that_is_not_known_has_no_share(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *args: "Some Future Card")
    assert peak("cuda", "bf16") is None and mfu(1e12, 1.0, torch.device("cuda"), "bf16") is None
    assert mfu(1e12, 1.0, torch.device("mps"), "no") is None
    assert all(low <= high for high, low in PEAKS.values())


def test_the_share_is_flops_by_seconds_by_peak(monkeypatch):
    monkeypatch.setattr(mfus, "peak", lambda kind, precision: 2e12)
    assert mfu(3e12, 3.0, torch.device("cpu"), "no") == pytest.approx(0.5)
    assert mfu(0.0, 1.0, torch.device("cpu"), "no") == 0.0  # a resumed training that had nothing left to do
    assert mfu(1e12, 0.0, torch.device("cpu"), "no") is None
