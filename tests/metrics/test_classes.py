"""Oracle: scikit-learn for the judge; entropies and survivals counted by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

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


@pytest.mark.parametrize("classes", [2, 3])
def test_judge_is_scikit_learn_s(classes):
    draw = torch.Generator().manual_seed(classes)
    labels = torch.randint(classes, (120,), generator=draw)
    x = torch.randn(120, 5, generator=draw) + torch.eye(classes, 5)[labels]
    x[:, 4] = 3  # a constant feature
    scaler = StandardScaler().fit(x.double().numpy())
    theirs = LogisticRegression(max_iter=5000).fit(scaler.transform(x.double().numpy()), labels.numpy())
    other = torch.randn(200, 5, generator=draw)
    np.testing.assert_array_equal(
        Judge.fit(x, labels, classes).predict(other), theirs.predict(scaler.transform(other.double().numpy()))
    )


def test_judge_survives_the_disk_and_keeps_its_recipe(judge, tmp_path):
    judge.save(tmp_path / "judge.safetensors")
    again = Judge.load(tmp_path / "judge.safetensors")
    x = torch.randn(50, 4)
    assert (
        torch.equal(again.predict(x), judge.predict(x))
        and again.recipe == judge.recipe
        and again.n_classes == 4
    )
    assert [p.name for p in tmp_path.iterdir()] == ["judge.safetensors"]


def test_a_class_without_training_images_is_never_answered():
    labels = torch.tensor([0, 2]).repeat(10)
    assert set(Judge.fit(at_corners(labels), labels, 4).predict(torch.randn(100, 4) * 10).tolist()) == {0, 2}


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
    assert (
        RareClassSurvival.of(pair, torch.arange(10), torch.arange(10)) == 1
    )  # nothing to lose in these rows
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
        (lambda: Judge.fit(x, y[:3], 4), "wants features"),
        (lambda: Judge.fit(x / 0, y, 4), "NaN or infinite"),
        (lambda: Judge.load(tmp_path / "absent.safetensors"), "cannot read a class judge"),
        (lambda: Judge.load(tmp_path / "bad.safetensors"), "cannot read a class judge"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()
