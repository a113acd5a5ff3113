"""A measure that one process cannot take is an error in all of them."""

from types import SimpleNamespace

import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.loop import resamples
from difflab.loop.resamples import shared_resamples
from difflab.metrics import METRICS, Pair


def test_what_one_process_cannot_take_is_an_error_in_all(monkeypatch):
    two, gathered = SimpleNamespace(process_index=0, num_processes=2), []
    # trace_ratio has no value here: the real images are all the same.
    rows_of_one = Pair(torch.zeros(8, 1), torch.rand(8, 1))
    monkeypatch.setattr(resamples, "gather_object", lambda own: gathered.append(own) or [1.0, *own])
    with pytest.raises(MeasureError, match="all the same"):
        shared_resamples(two, METRICS["trace_ratio"], rows_of_one, 20, 0)  # type: ignore[arg-type]
    assert len(gathered) == 1  # it told the others before it stopped
    monkeypatch.setattr(resamples, "gather_object", lambda own: [*own, MeasureError("theirs")])
    with pytest.raises(MeasureError, match="theirs"):
        pair = Pair(torch.rand(8, 1), torch.rand(8, 1))
        shared_resamples(two, METRICS["trace_ratio"], pair, 20, 0)  # type: ignore[arg-type]
