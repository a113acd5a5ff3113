"""Batch norm folded into convolutions: the same network in less time, whose features differ by rounding only.

In evaluation mode batch norm is one factor and one shift per channel, which the convolution before it can
apply.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

Network = TypeVar("Network", bound=nn.Module)


def without_batch_norm(network: Network) -> Network:
    """`network` with each batch norm folded into the convolution listed before it.

    Changes the network in place. It is meant for networks that apply the layers of each module in the order
    in which they are listed. The activation of timm's BatchNormAct2d stays. Raises ValueError for a network
    that is not in evaluation mode, because batch norm then depends on the batch.

    >>> layers = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).eval()
    >>> without_batch_norm(layers)[1]
    Identity()
    """
    if network.training:
        raise ValueError("batch norm can be folded in evaluation mode only: call network.eval() first")
    for parent in list(network.modules()):
        layers = list(parent.named_children())
        for (_, convolution), (name, norm) in pairwise(layers):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold(convolution, norm)
                setattr(parent, name, getattr(norm, "act", nn.Identity()))
    return network


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
