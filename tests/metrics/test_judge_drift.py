"""Oracles: scikit-learn's logistic regression for the judges, worlds whose drift is known by construction."""

import doctest
import importlib

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from difflab.core.errors import MeasureError
from difflab.metrics.interval import wilson
from difflab.metrics.judge_drift import judge_drift

CENTRES = 4 * torch.eye(3, 6)


def world(n, seed, centres=CENTRES, noise=1.0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=draw)
    return centres[labels] + noise * torch.randn(n, centres.shape[1], generator=draw), labels


def by(rows, generation, judge):
    return next(row for row in rows if row["generation"] == generation and row["judge"] == judge)


@pytest.fixture(scope="module")
def rows():
    """Samples like real images, then classes that have changed places, then classes that are no longer told
    apart.
    """
    samples = [world(200, 3), world(200, 4, CENTRES.roll(1, 0)), world(200, 5, torch.zeros(3, 6))]
    return judge_drift(
        world(200, 0), world(150, 1), samples, [world(200, 10 + t) for t in range(3)], n_classes=3
    )


def test_three_judges_a_generation(rows):
    assert [(row["generation"], row["judge"]) for row in rows] == [
        (t, j) for t in range(3) for j in ("frozen", "retrained", "re-based")
    ]
    for row in rows:
        assert row["on_samples_n"] == 100 and row["on_real_n"] == 150 and row["reason"] is None
        assert (row["on_samples_low"], row["on_samples_high"]) == wilson(row["on_samples"], 100)
        assert (row["on_real_low"], row["on_real_high"]) == wilson(row["on_real"], 150)


def test_no_drift_moved_classes_and_lost_classes_are_told_apart(rows):
    assert all(
        by(rows, 0, judge)[where] > 0.9
        for judge in ("frozen", "retrained", "re-based")
        for where in ("on_samples", "on_real")
    )
    moved = {judge: by(rows, 1, judge) for judge in ("frozen", "retrained", "re-based")}
    assert (
        moved["frozen"]["on_samples"] < 0.1
        and moved["re-based"]["on_samples"] < 0.1
        and moved["retrained"]["on_samples"] > 0.9
    )
    assert moved["retrained"]["on_real"] < 0.1 and moved["frozen"]["on_real"] > 0.9
    assert all(by(rows, 2, judge)["on_samples"] < 0.55 for judge in ("frozen", "retrained", "re-based"))
    assert len({by(rows, t, "frozen")["on_real"] for t in range(3)}) == 1  # it is one judge


def test_judges_are_scikit_learn_s_on_the_halves_that_the_seed_draws():
    real, held_out, sample, fresh = (
        world(n, seed, noise=2.5) for n, seed in ((90, 0), (80, 1), (70, 2), (60, 3))
    )
    rows = judge_drift(real, held_out, [sample], [fresh], 3, seed=5)
    order = np.random.default_rng([5, 0]).permutation(70)
    order = np.concatenate([[i for i in order if sample[1][i] == c] for c in range(3)])
    fitted, kept = order[::2], order[1::2]
    for name, (x, y) in (
        ("frozen", real),
        ("retrained", (sample[0][fitted], sample[1][fitted])),
        ("re-based", fresh),
    ):
        scaler = StandardScaler().fit(x.double().numpy())
        theirs = LogisticRegression(max_iter=5000).fit(scaler.transform(x.double().numpy()), y.numpy())
        for where, (test, labels) in {
            "on_samples": (sample[0][kept], sample[1][kept]),
            "on_real": held_out,
        }.items():
            assert by(rows, 0, name)[where] == theirs.score(
                scaler.transform(test.double().numpy()), labels.numpy()
            )
    assert (
        rows
        == judge_drift(real, held_out, [sample], [fresh], 3, seed=5)
        != judge_drift(real, held_out, [sample], [fresh], 3, seed=6)
    )


@pytest.mark.parametrize("asked", [lambda y: y * 0, lambda y: y.clamp(max=1)])
def test_a_class_that_the_retrained_judge_has_no_sample_of_has_a_reason_instead_of_a_number(asked):
    x, y = world(60, 2)
    rows = judge_drift(world(90, 0), world(80, 1), [(x, asked(y))], [world(90, 3)], 3)
    row = by(rows, 0, "retrained")
    assert (
        "has no sample of class" in row["reason"]
        and row["on_samples"] is row["on_real"] is row["on_real_low"] is None
        and row["on_real_n"] == 80
    )
    assert by(rows, 0, "frozen")["on_samples"] is not None and by(rows, 0, "frozen")["reason"] is None


def test_half_of_each_class_fits_the_retrained_judge_however_rare():
    x, y = world(60, 2)
    for seed in range(20):  # two samples of class 2: one on each side
        y = (
            torch.zeros(60, dtype=torch.long)
            .index_fill_(0, torch.arange(30), 1)
            .index_fill_(0, torch.tensor([3, 50]), 2)
        )
        row = by(judge_drift(world(90, 0), world(80, 1), [(x, y)], [world(90, 3)], 3, seed), 0, "retrained")
        assert row["reason"] is None and row["on_samples_n"] == 30


def test_sets_that_do_not_go_together():
    good = world(60, 0)
    for bad, match in (
        (lambda: judge_drift(good, good, [], [], 3), "0 sets of samples"),
        (lambda: judge_drift(good, good, [good, good], [good], 3), "2 sets of samples, 1 of real"),
        (
            lambda: judge_drift(good, (good[0][:, :2], good[1]), [good], [good], 3),
            r"held-out features \(60, 2\).*\[n, 6\]",
        ),
        (lambda: judge_drift(good, good, [(good[0], good[1][:9])], [good], 3), "sample features"),
        (lambda: judge_drift(good, good, [(good[0][:1], good[1][:1])], [good], 3), "n >= 2"),
        (lambda: judge_drift(good, good, [good], [(good[0].flatten(), good[1])], 3), "fresh features"),
        (lambda: judge_drift((good[0], good[1] * 0), good, [good], [good], 3), "at least 2 classes"),
        (lambda: judge_drift(good, good, [good], [good], 2), "2 classes are 0 to 1"),
    ):
        with pytest.raises(MeasureError, match=match):
            bad()


def test_the_examples_in_the_docs_hold():
    assert doctest.testmod(importlib.import_module(judge_drift.__module__)).failed == 0
