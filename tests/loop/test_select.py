"""The select stage on a run on disk; `tests/policies/` has the policies one by one."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from accelerate import Accelerator

from difflab.config import parse
from difflab.core.errors import ConfigError
from difflab.loop.chain import run_chain
from difflab.loop.run_extractors import extractors_of
from difflab.loop.select import decide
from difflab.policies.candidates import Candidates
from difflab.runs.run import Run

run_chain = partial(run_chain, plots=False)  # curves take seconds

CONFIG: dict[str, Any] = {
    "generations": 0,
    "data": {"source": "digits", "limit": 200, "train_size": 90},
    "model": {"family": "pixel-mlp", "width": 16, "depth": 1},
    "train": {"images_seen": 512},
    "sample": {"count": 60, "steps": 2, "batch_size": 25, "shard_size": 25},
    "probe": {"per_condition": 0},
    "measure": {"metrics": ["fd"], "resamples": 0, "held_out_loss": 0},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Run, list[Any]]:
    run = run_chain(parse(CONFIG), tmp_path_factory.mktemp("runs") / "run")
    return run, extractors_of(run, Accelerator(cpu=True))


def chosen(made, *entries: Any, generations: int = 1) -> Any:
    run, extractors = made
    return decide(
        Run(run.path, parse({**CONFIG, "generations": generations, "policies": list(entries)})), 0, extractors
    )


def test_candidates_are_the_samples_of_the_generation(made):
    run, extractors = made
    some = Candidates(run, 0, np.array([2, 30, 59]), extractors)
    samples = run.samples(0)
    assert (some.images() == samples.gather(some.index)).all() and some.rows["index"].to_pylist() == [
        2,
        30,
        59,
    ]
    assert (some.labels == samples.labels()[some.index]).all()
    assert (some.features(extractors[0]) == samples.features(extractors[0].key)[some.index]).all()
    features, labels = some.real(extractors[0])
    assert (
        len(features) == len(labels) == 90
    )  # generation 0's training set, not the reserve and not the held-out images
    assert (features == run.real.features(extractors[0].key)[:90]).all() and (
        labels == run.real.labels()[:90]
    ).all()
    assert [len(block) for block in some.blocks(2)] == [2, 1] and some.judge(extractors[0]).recipe[
        "n_train"
    ] == 90


def test_what_is_read_is_read_once(made, monkeypatch):
    run, extractors = made
    every = Candidates(run, 0, np.arange(60), extractors)
    assert every.only(np.arange(5)).judge(extractors[0]) is every.only(np.arange(9)).judge(extractors[0])
    every.features(extractors[0])
    monkeypatch.setattr("difflab.runs.store.Shards.features", lambda *_: pytest.fail("read again"))
    every.only(np.arange(3)).features(extractors[0])


def test_policies_see_what_the_earlier_ones_left(made):
    bright = {"policy": "top_share", "count": 30, "reward": "brightness"}
    rows = chosen(made, bright, {"policy": "best_of", "k": 3, "reward": "sharpness"}).to_pydict()
    assert rows["index"] == list(range(60)) and rows["kept"] == [reason is None for reason in rows["reason"]]
    count = {reason: rows["reason"].count(reason) for reason in set(rows["reason"])}
    assert count == {None: 10, "its reward is too low": 30, "another of its 3 was preferred": 20}
    first = chosen(made, bright).to_pydict()["kept"]
    assert all(first[i] for i in range(60) if rows["kept"][i])
    assert chosen(made, bright).equals(chosen(made, bright))


def test_a_selector_that_keeps_nothing_is_an_error_unless_nothing_follows(made):
    nothing = {"policy": "detector", "true_positive_rate": 1.0}
    with pytest.raises(
        ConfigError, match=r"detector keeps none of the 60 samples of generation 0 \(detected\); loosen it"
    ):
        chosen(made, nothing)
    assert set(
        chosen(made, nothing, {"policy": "random", "count": 20}, generations=0)["reason"].to_pylist()
    ) == {"detected"}


EVERY: list[dict[str, Any]] = [
    {"policy": "random", "share": 0.5},
    {"policy": "best_of", "k": 2, "reward": "class_confidence", "within": "class"},
    {"policy": "top_share", "share": 0.5, "reward": "likeness"},
    {"policy": "luce", "k": 2, "reward": "brightness"},
    {"policy": "farthest", "share": 0.5},
    {"policy": "farthest", "count": 30, "away_from_real": True},
    {"policy": "threshold_decay", "count": 30},
    {"policy": "verifier", "share": 0.5, "classes": ["0", "1", "2"]},
    {"policy": "verifier", "threshold": 0.2},
    {"policy": "detector", "true_positive_rate": 0.5},
    {"policy": "probe_detector", "false_positive_rate": 0.3},
    {"policy": "deduplicate", "real": True},
    {"policy": "diverse", "k": 1},
    {"policy": "unflagged"},
]


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry["policy"])
def test_every_selector_reads_a_run(made, entry):
    rows = chosen(made, entry, generations=0)
    assert len(rows) == 60
    if "share" in entry or "count" in entry:
        assert sum(rows["kept"].to_pylist()) == 30


def test_later_generations_train_on_what_was_kept(tmp_path):
    raw = {
        "generations": 2,
        "data": {"source": "exact", "train_size": 40},
        "model": {"family": "categorical", "categories": 30},
        "sample": {"count": 160},
        "policies": [{"policy": "best_of", "k": 4, "reward": "value"}],
    }
    run = run_chain(parse(raw), tmp_path / "run")
    means = []
    for t in range(3):
        rows = pq.read_table(run.gen(t) / "train_set.parquet")["index"].to_numpy()
        assert len(rows) == 40 and len(run.kept(t)) == 40
        if t:
            assert set(rows) == set(run.kept(t - 1))
        means.append(run.samples(t).gather(run.kept(t)).mean())
    assert 18 < means[0] < means[1] < means[2]  # of 0..29 the best of 4 is 23 or so; then more
