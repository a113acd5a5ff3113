"""A pair computes each derived matrix once and refuses sets that cannot be compared."""

import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, Pair


def test_a_pair_computes_once():
    pair, calls = Pair(torch.randn(5, 2), torch.randn(6, 2)), []
    derive = lambda p: calls.append(p) or 7  # noqa: E731
    assert pair.once(derive) == pair.once(derive) == 7 and len(calls) == 1
    assert pair.rf is pair.rf and pair.rr.shape == (5, 5) and pair.ff.shape == (6, 6)


def test_pairs_that_cannot_be():
    x = torch.randn(6, 3)
    for bad, match in (
        (lambda: Pair(x, x[:, :2]), "3 dimensions, fake ones 2"),
        (lambda: Pair(x.flatten(), x), "shape"),
        (lambda: Pair(x.long(), x), "needs floats"),
        (lambda: Pair(x, x, real_labels=torch.zeros(5, dtype=torch.long)), "6 images need integers"),
        (lambda: Pair(x, x, fake_labels=torch.zeros(6)), "integers"),
        (lambda: Pair(x, x, fake_labels=torch.full((6,), -1)), "count from 0"),
        (lambda: Pair(x, x, neighbours=0), "at least 1"),
        (lambda: METRICS["class_entropy"].of(Pair(x, x)), "need a judge"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()
