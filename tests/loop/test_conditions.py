from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from difflab.config import Config, parse
from difflab.core.errors import ConfigError
from difflab.loop.chain import run_chain
from difflab.loop.conditions import probe_conditions, probe_count, sample_conditions
from difflab.runs.run import Run

BASE: dict[str, Any] = {
    "generations": 1,
    "data": {"source": "digits", "train_size": 80},
    "model": {"family": "pixel-mlp", "width": 32, "depth": 1},
    "train": {"images_seen": 1280, "batch_size": 64, "learning_rate": 3e-3},
    "sample": {"count": 50, "steps": 4, "shard_size": 20, "batch_size": 10, "guidance_scale": 1.5},
    "probe": {"per_condition": 1},
    "measure": {"extractors": ["pixels", "fitted"], "metrics": ["trace_ratio"], "resamples": 0},
}


def digits(**changes: Any) -> Config:
    return parse({**BASE, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("sample") / "run")


def imbalanced(run: Run, **sample: Any) -> Run:
    """The same real set, of which training set 0 is only the first 80 images; other sampling settings."""
    return Run(run.path, digits(sample={**BASE["sample"], **sample}))


def test_classes_are_asked_for_as_often_as_training_set_0_has_them(run):
    known = run.real.labels()[:80]
    share = np.bincount(known, minlength=10) / 80
    assert share.max() > share.min()
    got = np.bincount(sample_conditions(run, 1, 50).conditions, minlength=10)
    assert got.sum() == 50 and (np.abs(got - 50 * share) < 1).all()
    assert (
        np.bincount(sample_conditions(run, 1, 800).conditions, minlength=10)
        == 10 * np.bincount(known, minlength=10)
    ).all()
    assert run.samples(1).column("label") == sample_conditions(run, 1, 50).conditions.tolist()


def test_balanced_asks_for_every_class_equally_often(run):
    balanced = imbalanced(run, conditions="balanced")
    assert (np.bincount(sample_conditions(balanced, 1, 50).conditions) == 5).all()
    assert sorted(np.bincount(sample_conditions(balanced, 1, 53).conditions)) == [5] * 7 + [6] * 3


def test_balanced_never_asks_for_a_class_that_was_not_trained_on(run):
    few = Run(
        run.path,
        digits(
            data={"source": "digits", "train_size": 12}, sample={**BASE["sample"], "conditions": "balanced"}
        ),
    )
    there = set(run.real.labels()[:12].tolist())
    assert len(there) < 10
    got = Counter(sample_conditions(few, 1, 50).conditions.tolist())
    assert set(got) == there and max(got.values()) - min(got.values()) <= 1


def test_the_order_of_the_classes_is_random_and_fresh_in_every_generation(run):
    first, second = sample_conditions(run, 0, 50).conditions, sample_conditions(run, 1, 50).conditions
    assert (first != second).any() and sorted(first) == sorted(second) and (np.diff(first) < 0).any()
    assert (sample_conditions(run, 0, 50).conditions == first).all()


def test_too_few_samples_for_a_class_are_an_error_that_names_it(run):
    share = np.bincount(run.real.labels()[:80], minlength=10) / 80
    with pytest.raises(
        ConfigError,
        match=r"sample\.count 6 is too small to ask for class '\d' even once; .*conditions=balanced",
    ) as error:
        sample_conditions(run, 1, 6)
    assert share[int(str(error.value).split("'")[1])] * 6 < 1
    with pytest.raises(
        ConfigError, match=r"sample\.count 9 is too small to ask for class '9' even once; raise it$"
    ):
        sample_conditions(imbalanced(run, conditions="balanced"), 1, 9)


def test_the_probe_shows_frequent_and_rare_classes(run):
    four = Run(run.path, digits(probe={"per_condition": 3, "conditions": 4}))
    frequency = np.bincount(run.real.labels()[: four.config.data.train_size or run.about["n_train"]])
    labels = probe_conditions(four).conditions
    ranked = np.argsort(-frequency, kind="stable")
    assert (
        labels is not None
        and set(labels) == {*ranked[:2], *ranked[-2:]}
        and (np.bincount(labels)[np.unique(labels)] == 3).all()
    )
    unconditional = Run(
        run.path, digits(model={"family": "memoriser"}, sample={"count": 50}, probe={"per_condition": 3})
    )
    assert probe_conditions(unconditional) is None and probe_count(unconditional) == 24
