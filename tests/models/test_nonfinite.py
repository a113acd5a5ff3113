"""The first layer with a non-finite output is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from difflab.models.nonfinite import named, watched


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))


def test_a_finite_pass_names_no_layer() -> None:
    net = network()
    with watched(net) as layers:
        net(torch.ones(1, 2))
    assert layers == [] and named(layers) == ""


def test_the_first_layer_is_named_and_not_those_that_it_spoils() -> None:
    net = network()
    with torch.no_grad():
        net[1][0].weight[0, 0] = float("nan")
    with watched(nn.Linear(2, 2), net) as layers:
        net(torch.ones(1, 2))
    assert layers == ["1.0"] and named(layers) == ", first in layer 1.0"


def test_the_hooks_are_removed_after_the_block_even_after_an_error() -> None:
    net = network()
    with pytest.raises(ValueError, match="stop"), watched(net):
        raise ValueError("stop")
    assert not any(module._forward_hooks for module in net.modules())


def test_a_compiled_network_is_watched_too():
    class Divide(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 0

    net = torch.nn.Sequential(torch.nn.Linear(2, 2), Divide())
    net.compile(backend="eager", dynamic=False)
    net(torch.ones(3, 2))  # compiled before the hooks are there
    with watched(net) as layers:
        net(torch.ones(3, 2))
    assert layers == ["1"]
