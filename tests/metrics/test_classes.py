"""Class measures: counts by hand, ties, and what has no value."""

import math

import pytest
import torch

from difflab.core.errors import MeasureError
from difflab.metrics import METRICS, ClassAccuracy, ClassEntropy, Judge, Pair, RareClassSurvival
from difflab.metrics.classes import FEWEST_CLASSES, rare_classes


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


def clusters(n, classes, seed, shift=0.0):
    """Features around one corner for each class, moved by `shift` of the way to the corner of the next class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    corners = 3 * torch.eye(classes)
    centres = (1 - shift) * corners[labels] + shift * corners[(labels + 1) % classes]
    return centres + torch.randn(n, classes, generator=draw) / 2, labels


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_random_labels_raise_unlikely_labels_by_half_their_share_and_leave_confidence(share):
    n, classes = 2000, 10
    judge = Judge.fit(*clusters(600, classes, 1), classes)
    x, labels = clusters(n, classes, 2)
    draw = torch.Generator().manual_seed(3)
    wrong = torch.rand(n, generator=draw) < share
    asked = torch.where(wrong, torch.randint(classes, (n,), generator=draw), labels)
    pair = Pair(x, x, fake_labels=asked, judge=judge)
    expected = share * 0.5  # of 10 classes, 5 have at least 5 of the 9 others before them
    error = (expected * (1 - expected) / n) ** 0.5
    assert METRICS["unlikely_labels"].of(pair) == pytest.approx(expected, abs=3 * error + 0.005)
    right = Pair(x, x, fake_labels=labels, judge=judge)
    assert METRICS["class_confidence"].of(pair) == METRICS["class_confidence"].of(right)


def test_blended_images_lower_the_confidence_and_keep_their_label_among_the_likely_ones():
    judge = Judge.fit(*clusters(600, 10, 1), 10)
    (x, labels), (blend, blended) = clusters(2000, 10, 2), clusters(2000, 10, 2, shift=0.45)
    real, between = (Pair(y, y, fake_labels=of, judge=judge) for y, of in ((x, labels), (blend, blended)))
    confidence, unlikely = METRICS["class_confidence"], METRICS["unlikely_labels"]
    assert confidence.of(between) < confidence.of(real) - 0.2
    assert ClassAccuracy.of(between) < ClassAccuracy.of(real) - 0.2
    assert unlikely.of(between) < 0.02


def test_wrong_labels_among_few_classes_cannot_be_told_from_blends():
    classes = FEWEST_CLASSES - 1
    judge = Judge.fit(*clusters(90, classes, 1), classes)
    x, labels = clusters(30, classes, 2)
    with pytest.raises(MeasureError, match="it needs 4 classes, the judge knows 3"):
        METRICS["unlikely_labels"].of(Pair(x, x, fake_labels=labels, judge=judge))
    with pytest.raises(MeasureError, match="unconditional"):
        METRICS["unlikely_labels"].of(Pair(x, x, judge=judge))


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
