"""Batch norm folded into convolutions against the network as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from difflab.features.folding import without_batch_norm


def network() -> nn.Sequential:
    """Two convolutions with batch norm, one of them with timm's activation, and one norm without a convolution."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), BatchNormAct2d(8, act_layer=nn.ReLU6)),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8, affine=False), nn.ReLU()),
        nn.BatchNorm2d(8),
    )
    for layer in layers.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 2)
                nn.init.uniform_(layer.bias, -1, 1)
    return layers.eval()


@torch.no_grad()
def test_the_output_differs_by_rounding_only():
    before = network()
    folded = without_batch_norm(copy.deepcopy(before))
    images = torch.rand(4, 3, 20, 20)
    assert torch.allclose(folded(images), before(images), rtol=1e-5, atol=1e-5)
    assert folded[0](images).min() == 0 and folded[0](images).max() <= 6  # the activation stays


def test_only_a_norm_after_a_convolution_is_folded():
    norms = [layer for layer in without_batch_norm(network()).modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 1


def test_a_network_in_training_is_refused():
    with pytest.raises(ValueError, match="evaluation"):
        without_batch_norm(network().train())
