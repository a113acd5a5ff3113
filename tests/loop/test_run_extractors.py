"""Measures, extractors and judges that do not go together are refused before anything runs."""

from functools import partial
from typing import Any

import pytest

from difflab.config import Config, parse
from difflab.core.errors import ConfigError, MeasureError
from difflab.loop.chain import run_chain
from difflab.runs.run import Run

run_chain = partial(run_chain, plots=False)  # curves take seconds
ALL = [
    "fd",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "trace_ratio",
    "class_accuracy",
    "class_entropy",
    "rare_class_survival",
]
BASE: dict[str, Any] = {
    "generations": 1,
    "data": {"source": "digits", "train_size": 100},
    "model": {"family": "pixel-mlp", "width": 32, "depth": 1},
    "train": {"images_seen": 2560, "batch_size": 64, "learning_rate": 3e-3},
    "sample": {"count": 80, "steps": 4, "shard_size": 40, "batch_size": 40},
    "probe": {"per_condition": 0},
    "measure": {"metrics": ALL, "resamples": 20, "count": 70, "neighbours": 3},
}


def digits(**changes: Any) -> Config:
    return parse({**BASE, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return run_chain(digits(), tmp_path_factory.mktemp("measure") / "run")


def test_a_judge_that_is_no_extractor_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(
        ConfigError, match=r"measure\.judge 'fitted' is none of measure\.extractors \['pixels'\]"
    ):
        run_chain(digits(measure={"judge": "fitted"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_measure_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(MeasureError, match="recal"):
        run_chain(digits(measure={"metrics": ["recal"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_judge_drift_wants_features(tmp_path):
    with pytest.raises(MeasureError, match="judge_drift: the judges read features"):
        run_chain(
            digits(generations=0, measure={"metrics": [], "extractors": [], "judge_drift": True}),
            tmp_path / "run",
        )
