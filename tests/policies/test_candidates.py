from __future__ import annotations

import numpy as np
import pytest
import torch
from made import candidates

from difflab.core.errors import MeasureError


def test_fewer_candidates_see_their_own_rows_and_read_nothing_again() -> None:
    at, everything = candidates(
        features=[[0.0], [1.0], [2.0], [3.0]],
        labels=[0, 1, 2, 0],
        images=np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1),
    )
    some = everything.only(np.array([1, 3]))
    assert len(some) == 2
    assert some.labels is not None and some.labels.tolist() == [1, 0]
    assert some.rows["class"].to_pylist() == ["bee", "ant"]
    assert some.features(at.extractors[0]).tolist() == [[1.0], [3.0]]
    assert some.images().ravel().tolist() == [1, 3]
    assert everything.once("a key", lambda: 1) == 1
    assert some.once("a key", lambda: 2) == 1


def test_blocks_hold_every_candidate_once_and_in_order() -> None:
    _, everything = candidates(n=7)
    assert [block.index.tolist() for block in everything.blocks(3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_features_that_are_not_finite_name_the_sample() -> None:
    at, everything = candidates(features=[[0.0], [float("nan")], [1.0]])
    assert everything.only(np.array([0, 2])).features(at.extractors[0]).tolist() == [[0.0], [1.0]]
    with pytest.raises(MeasureError, match="sample 1 of generation 1 has features that are NaN or infinite"):
        everything.features(at.extractors[0])
    at, everything = candidates(features=[[0.0]], real=[[1.0], [float("inf")]])
    with pytest.raises(MeasureError, match="real image 1 has features that are NaN or infinite"):
        everything.real(at.extractors[0])


def test_the_judge_learns_from_the_labelled_real_images() -> None:
    real = torch.tensor([[-4.0], [-5.0], [5.0], [4.0]])
    at, everything = candidates(features=[[-6.0], [6.0]], real=real, real_labels=[0, 0, 1, 1])
    judge = everything.judge(at.extractors[0])
    assert judge.probabilities(torch.tensor([[-6.0], [6.0]])).argmax(1).tolist() == [0, 1]
    assert everything.judge(at.extractors[0]) is judge
    at, everything = candidates(features=[[0.0]], real=real)
    with pytest.raises(MeasureError, match="labelled real images"):
        everything.judge(at.extractors[0])
