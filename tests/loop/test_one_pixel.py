"""Convolutions with a stride that read a single pixel: found, and not trained in bf16 on a CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch

from difflab.config import parse
from difflab.core.errors import ConfigError
from difflab.loop import precision
from difflab.loop.one_pixel import refuse_one_pixel, strided_at_one_pixel

pytestmark = tiny.LIBRARIES


class Halved:
    """What the loop needs of a model. Its network halves images twice."""

    spec, null = SimpleNamespace(conditional=False), 0

    def __init__(self, side: int):
        self.drawn = (1, side, side)
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3, padding=1),
            torch.nn.Conv2d(4, 4, 3, stride=2, padding=1),
            torch.nn.Conv2d(4, 4, 3, stride=2, padding=1),
        )

    def predict(self, net: Any, x: torch.Tensor, t: torch.Tensor, conditions: None) -> Any:
        return net(x)


@pytest.mark.parametrize(("side", "layers"), [(8, 0), (4, 0), (2, 1)])
def test_layers_that_halve_one_pixel_are_found(side: int, layers: int) -> None:
    assert len(strided_at_one_pixel(Halved(side), "cpu")) == layers


def test_training_in_bf16_on_a_cpu_is_refused_by_the_name_of_the_layer() -> None:
    name = strided_at_one_pixel(Halved(2), "cpu")[0]
    with pytest.raises(
        ConfigError, match=rf"layer {name} halves images of a single pixel.*train\.precision=no"
    ):
        refuse_one_pixel(Halved(2), "bf16", "cpu")
    refuse_one_pixel(Halved(2), "no", "cpu")
    refuse_one_pixel(Halved(4), "bf16", "cpu")


def test_auto_takes_float32_for_such_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.passes, "random_model", lambda *given: Halved(2))
    asks = parse({"data": {"source": "digits"}, "model": {"family": "pixel-mlp"}})
    assert precision.measured(asks, "train", ("no", "bf16"), "cpu") == {}


def test_the_hooks_are_gone_afterwards() -> None:
    model = Halved(4)
    strided_at_one_pixel(model, "cpu")
    assert not any(
        layer._forward_pre_hooks for layer in model.net.modules() if isinstance(layer, torch.nn.Conv2d)
    )
