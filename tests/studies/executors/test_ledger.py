from __future__ import annotations

import os

import pytest

from difflab import config as configs
from difflab.runs.run import Run
from difflab.studies.executors.ledger import Ledger, progress_of, recipe_of
from difflab.studies.job import Job


def job(out, **changes):
    raw = {
        "generations": 1,
        "data": {"source": "exact", "train_size": 20},
        "model": {"family": "gaussian", "replicates": 4},
        "sample": {"count": 20},
    }
    return Job("arm", 0, configs.parse({**raw, **changes}), out / "arm" / "seed-0")


def test_arrays_keep_their_order_and_names_belong_to_the_folder(tmp_path):
    ledger, other = Ledger(tmp_path / "my sweep"), Ledger(tmp_path / "other" / "my sweep")
    for each in (ledger, other):
        each.home.mkdir(parents=True)
    first = ledger.new_array(["a", "b"], ["1", "2"])
    second = ledger.new_array(["c"], ["3"])
    assert ledger.arrays() == [first, second]
    assert first.name.startswith("my-sweep-") and first.name.endswith("-1") and second.name.endswith("-2")
    assert other.new_array(["a"], ["1"]).name != first.name


def test_a_record_counts_only_for_the_same_config_and_while_its_run_exists(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    ledger, mine = Ledger(tmp_path), job(tmp_path)
    assert ledger.entry(ledger.key(mine)) is None and ledger.record(mine) is None
    mine.path.mkdir(parents=True)
    entry = ledger.begin(mine, False)
    assert ledger.record(mine) is None, "it has not ended"
    ledger.end(mine, False, entry, {"error": None})
    assert ledger.record(mine) == {"error": None}
    assert ledger.record(job(tmp_path, generations=2)) is None
    mine.path.rmdir()
    assert ledger.record(mine) is None
    ledger.end(mine, False, entry, {"error": "no such preset"})
    assert ledger.record(mine) == {"error": "no such preset"}, "an error may come before the run has a folder"


def test_an_entry_that_is_damaged_is_none(tmp_path):
    ledger, mine = Ledger(tmp_path), job(tmp_path)
    place = tmp_path / ".slurm" / "jobs" / "arm" / "seed-0.json"
    place.parent.mkdir(parents=True)
    for content in ("", "{", "[]", "{}"):
        place.write_text(content)
        assert ledger.record(mine) is None


def test_every_setting_is_part_of_the_recipe_and_the_place_is_not(tmp_path):
    assert recipe_of(job(tmp_path)) == recipe_of(job(tmp_path / "elsewhere"))
    assert recipe_of(job(tmp_path)) != recipe_of(job(tmp_path, seed=1))


def test_finished_stages_are_progress_and_opening_a_run_is_not(tmp_path):
    mine = job(tmp_path)
    seen = [progress_of(mine.path)]
    mine.run(tmp_path, until=0)
    seen.append(progress_of(mine.path))
    Run.create(mine.path, mine.config).close()
    mine.run(tmp_path, until=0)
    assert progress_of(mine.path) == seen[1], "a resume that finishes no stage is no progress"
    mine.run(tmp_path)
    seen.append(progress_of(mine.path))
    os.utime(mine.path / "gen-001" / "training.json") if (
        mine.path / "gen-001" / "training.json"
    ).exists() else None
    assert len(set(seen)) == 3


@pytest.mark.parametrize("values", [{"train.precision": "bf16"}, {}])
def test_decisions_and_errors_are_kept_by_job(tmp_path, values):
    from difflab.core.errors import ConfigError

    ledger = Ledger(tmp_path)
    assert ledger.decided() == {}
    ledger.decide({"a": values, "b": ConfigError("there is no base")}, ["said"])
    assert ledger.decided() == {"a": values, "b": "there is no base", "said": ["said"]}
