from __future__ import annotations

import os
from functools import partial

import pytest

from difflab import config as configs
from difflab.loop.chain import run_chain
from difflab.loop.reuse import adopt, keys
from difflab.runs.folder import STAGES
from difflab.runs.run import Run

run_chain = partial(run_chain, plots=False)  # curves take seconds

GAUSSIAN = {
    "generations": 2,
    "data": {"source": "exact", "train_size": 20},
    "model": {"family": "gaussian", "replicates": 3},
    "sample": {"count": 20},
}
MEMORISER = {
    "generations": 1,
    "data": {"source": "digits", "limit": 200},
    "model": {"family": "memoriser"},
    "sample": {"count": 60},
    "measure": {"metrics": ["trace_ratio"], "resamples": 0},
}


def config(base=GAUSSIAN, **changes):
    return configs.parse(
        configs.merged(base, {key.replace("__", "."): value for key, value in changes.items()})
    )


def parts(a, b):
    """The first (generation, stage) that two configs do not share; None = none."""
    one, other = keys(a), keys(b)
    if one["real"] != other["real"]:
        return "real"
    return next(((t, s) for t in range(a.generations + 1) for s in STAGES if one[t, s] != other[t, s]), None)


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"regime__name": "accumulate"}, (1, "mix")),
        ({"seed": 1}, "real"),
        ({"data__train_size": 30}, "real"),
        ({"model__sampling_bias": 0.5}, "real"),  # of the exact families the truth belongs to the model
        ({"sample__count": 30}, (0, "sample")),
        ({"measure__resamples": 0}, (0, "measure")),
        ({"measure__extractors": []}, (0, "sample")),  # features are taken while sampling
        ({"measure__held_out_loss": 0}, (0, "train")),
        ({"measure__judge": "inception"}, (0, "select")),
        ({"train__start_from": "previous"}, (1, "train")),
        ({"train__checkpoint_every": 7}, None),
        ({"policies": [{"policy": "unflagged", "first": 1}]}, (1, "select")),
        ({"policies": ["unflagged"]}, (0, "select")),
        ({"generations": 5}, None),
        ({"name": "other"}, None),
    ],
)
def test_runs_part_at_the_first_stage_that_reads_what_differs(changes, first):
    assert parts(config(), config(**changes)) == first


def test_training_settings_part_at_the_training_and_start_from_only_after_generation_0():
    digits = configs.load("configs/digits.yaml")
    raw = digits.model_dump(mode="json")
    longer = configs.parse(configs.merged(raw, {"train.images_seen": 99}))
    warm = configs.parse(configs.merged(raw, {"train.start_from": "previous"}))
    assert parts(digits, longer) == (0, "train")
    assert parts(digits, warm) == (1, "train")


def test_a_policy_matters_by_its_place_too_since_that_seeds_it():
    one = config(policies=["unflagged", {"policy": "unflagged", "first": 2}])
    other = config(policies=[{"policy": "unflagged", "first": 2}, "unflagged"])
    assert parts(one, other) == (0, "select")


def test_what_is_taken_over_is_linked_and_the_result_is_that_of_a_run_on_its_own(tmp_path):
    first = run_chain(config(MEMORISER), tmp_path / "a")
    wanted = config(MEMORISER, regime__name="accumulate")
    run = Run.create(tmp_path / "b", wanted)
    taken = adopt(run, [first])
    run.close()
    assert taken == [(0, stage) for stage in STAGES]
    shared, alone = run_chain(wanted, tmp_path / "b"), run_chain(wanted, tmp_path / "c")
    assert {(t["generation"], t["stage"]) for t in shared.timings()} == {(1, stage) for stage in STAGES}
    assert shared.rows() == alone.rows()
    for path in (tmp_path / "a" / "gen-000").rglob("*.parquet"):
        assert os.stat(path).st_nlink >= 2, path
    assert first.rows() == run_chain(config(MEMORISER), tmp_path / "a").rows()  # the donor is as it was


def test_nothing_is_taken_from_another_seed_or_from_an_unfinished_stage(tmp_path):
    donor = run_chain(config(), tmp_path / "a")
    other = Run.create(tmp_path / "b", config(seed=1))
    assert adopt(other, [donor]) == []
    other.close()
    (donor.gen(0) / "sampled.json").unlink()
    same = Run.create(tmp_path / "c", config(regime__name="accumulate"))
    assert adopt(same, [donor]) == [(0, "mix"), (0, "train")]
    same.close()


def test_what_is_there_already_stays(tmp_path):
    donor = run_chain(config(), tmp_path / "a")
    run = run_chain(config(), tmp_path / "b")
    before = {p: p.stat().st_ino for p in (tmp_path / "b").rglob("[!.]*") if p.is_file()}
    locked = Run.create(tmp_path / "b", run.config)
    assert adopt(locked, [donor]) == []
    locked.close()
    assert {p: p.stat().st_ino for p in before if p.name != "run.yaml"} == {
        p: i for p, i in before.items() if p.name != "run.yaml"
    }


def test_copies_where_links_are_refused(tmp_path, monkeypatch):
    donor = run_chain(config(), tmp_path / "a")

    def refuse(*args, **kwargs):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    run = Run.create(tmp_path / "b", config(regime__name="accumulate"))
    assert len(adopt(run, [donor])) == 5
    run.close()
    assert os.stat(tmp_path / "b" / "gen-000" / "train_set.parquet").st_nlink == 1
