from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from difflab.core.tensor_bytes import TensorBytes

KIB = 256 * torch.ones(()).element_size()


def test_tensors_are_counted_until_they_are_freed():
    with TensorBytes() as count:
        a = torch.ones(256)
        b = a.view(16, 16)  # the same storage
        assert count.now == KIB
        c = a + 1
        assert (count.now, count.peak) == (2 * KIB, 2 * KIB)
        del a, b
        assert (count.now, count.peak) == (KIB, 2 * KIB)
        count.reset()
        assert count.peak == KIB
        del c
    assert count.now == 0


def test_tensors_without_values_are_counted_as_real_ones():
    """A layer with a backward pass: the same bytes at the end and at the peak, by the arithmetic of its shapes."""
    counts = []
    for mode in (None, FakeTensorMode()):
        with torch.random.fork_rng(devices=[]):
            if mode is not None:
                mode.__enter__()
            with TensorBytes() as count:
                layer = torch.nn.Linear(64, 32)
                x = torch.zeros(8, 64)
                layer(x).square().sum().backward()
                counts.append((count.now, count.peak))
            if mode is not None:
                mode.__exit__(None, None, None)
    assert counts[0] == counts[1]
    weights, inputs = 4 * (64 * 32 + 32), 4 * 8 * 64
    assert counts[0][0] == 2 * weights + inputs  # weights, their gradients and the input are left
    assert counts[0][1] > counts[0][0]
