"""Class measures: counts by hand, ties, and what has no value."""

import math

import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.metrics import ClassAccuracy, ClassEntropy, Judge, Pair, RareClassSurvival
from difflab.metrics.classes import rare_classes


def at_corners(labels, classes=4):
    """Features from which no judge can fail to read the class."""
    return 10 * torch.eye(classes)[labels]


@pytest.fixture(scope="module")
def judge():
    labels = torch.arange(40) % 4
    return Judge.fit(
        at_corners(labels) + torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) / 10, labels, 4
    )


def test_accuracy_entropy_and_survival_by_hand(judge):
    real_labels = torch.tensor([0] * 40 + [1] * 30 + [2] * 20 + [3] * 10)
    asked = torch.tensor([0] * 50 + [1] * 30 + [2] * 15 + [3] * 5)
    drawn = asked.clone()
    drawn[:10] = 1
    pair = Pair(
        at_corners(real_labels), at_corners(drawn), real_labels=real_labels, fake_labels=asked, judge=judge
    )
    assert ClassAccuracy.of(pair) == 0.9
    assert ClassEntropy.of(pair) == pytest.approx(-sum(p * math.log(p) for p in (0.4, 0.4, 0.15, 0.05)))
    assert rare_classes(pair).tolist() == [3]
    assert RareClassSurvival.of(pair) == pytest.approx(0.5)  # 5% for 10%
    only = torch.arange(95, 100)
    assert RareClassSurvival.of(pair, None, only) == 1  # more than enough is enough
    # Nothing to lose in these rows.
    assert RareClassSurvival.of(pair, torch.arange(10), torch.arange(10)) == 1
    assert ClassEntropy.of(pair, None, only) == 0


def test_ties_between_rare_classes_go_by_index(judge):
    labels = torch.arange(40) % 4
    assert rare_classes(
        Pair(at_corners(labels), at_corners(labels), real_labels=labels, judge=judge)
    ).tolist() == [0]


def test_what_has_no_value_is_an_error(judge, tmp_path):
    x, y = at_corners(torch.arange(8) % 4), torch.arange(8) % 4
    (tmp_path / "bad.safetensors").write_bytes(b"no judge at all")
    for bad, match in (
        (lambda: ClassAccuracy.of(Pair(x, x, judge=judge)), "unconditional"),
        (lambda: RareClassSurvival.of(Pair(x, x, judge=judge)), "no labels"),
        (lambda: judge.predict(torch.zeros(2, 7)), "reads features"),
        (lambda: Judge.fit(x, y * 0, 4), "at least 2 classes"),
        (lambda: Judge.fit(x, y, 3), "3 classes are 0 to 2"),
        (lambda: Judge.fit(x, y[:3], 4), "needs features"),
        (lambda: Judge.fit(x / 0, y, 4), "NaN or infinite"),
        (lambda: Judge.load(tmp_path / "absent.safetensors"), "cannot read a class judge"),
        (lambda: Judge.load(tmp_path / "bad.safetensors"), "cannot read a class judge"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()
