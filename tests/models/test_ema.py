"""The exponential moving average of the weights."""

from __future__ import annotations

import math

import pytest
import torch

from difflab.models.ema import Average
from difflab.models.weights import trainable


def test_the_average_follows_the_textbook():
    net = torch.nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(1.0)
    weights = trainable(net)
    average, by_hand = Average(weights, 0.8), 1.0
    for k in range(60):
        net.weight.data.fill_(math.sin(k))
        average.update(weights, k)
        d = min(0.8, (1 + k) / (10 + k))
        by_hand = d * by_hand + (1 - d) * math.sin(k)
    average.copy_to(weights)
    assert net.weight.item() == pytest.approx(by_hand, rel=1e-5)


def test_a_decay_of_zero_keeps_no_average():
    net = torch.nn.Linear(1, 1, bias=False)
    weights = trainable(net)
    average = Average(weights, 0.0)
    before = net.weight.item()
    average.update(weights, 0)
    average.copy_to(weights)
    assert average.weights == {} and net.weight.item() == before


def test_the_average_is_a_copy_and_leaves_the_weights_alone():
    net = torch.nn.Linear(2, 2)
    weights = trainable(net)
    before = {name: p.detach().clone() for name, p in weights.items()}
    average = Average(weights, 0.9)
    for p in average.weights.values():
        p.add_(1)
    average.update(weights, 5)
    assert all(torch.equal(weights[name], before[name]) for name in before)
