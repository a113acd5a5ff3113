"""The judge is scikit-learn's logistic regression and survives the disk."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from difflab.metrics import Judge


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


def test_fewer_images_than_features_are_fitted_as_scikit_learn_fits_them():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (60,), generator=draw)
    x, others = (torch.randn(60, 200, generator=draw) + torch.eye(3, 200)[labels] for _ in range(2))
    judge = Judge.fit(x, labels, 3)
    scaler = StandardScaler().fit(x.double().numpy())
    probe = LogisticRegression(max_iter=5000).fit(scaler.transform(x.double().numpy()), labels.numpy())
    theirs = probe.predict_proba(scaler.transform(others.double().numpy()))
    assert np.abs(judge.probabilities(others).numpy() - theirs).max() < 1e-9


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
