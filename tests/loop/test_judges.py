"""The class judge of a run is fitted only where a measure needs it."""

from functools import partial
from typing import Any

import pytest
from spoken import folder_of_classes, spoken

from difflab.config import Config, parse
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


MEMORISER: dict[str, Any] = {
    "generations": 0,
    "model": {"family": "memoriser"},
    "sample": {"count": 30, "shard_size": 30, "batch_size": 30},
}


def test_no_judge_is_fitted_where_no_measure_asks_for_one(tmp_path):
    data = {"source": folder_of_classes(tmp_path / "set", cats=60)}
    run, said = spoken(
        digits(**MEMORISER, data=data, measure={"metrics": ["fd"], "resamples": 0}), tmp_path / "run"
    )
    assert (
        said == []
        and not list(run.path.glob("real/judge-*"))
        and all(r["value"] is not None for r in run.rows())
    )
