from __future__ import annotations

import pytest

from difflab import config as configs
from difflab.core.errors import StoreError
from difflab.runs.lease import LeaseLost
from difflab.studies import job as module
from difflab.studies.job import Job, decided, finished, record_of, with_values, work

RAW = {
    "generations": 1,
    "data": {"source": "exact", "train_size": 20},
    "model": {"family": "gaussian", "replicates": 4},
    "sample": {"count": 20},
}


def job(out, name="a", **changes):
    return Job(name, 0, configs.parse({**RAW, **changes}), out / name / "seed-0")


def test_a_job_resumes_and_takes_over_what_another_has_finished(tmp_path):
    first, second = job(tmp_path), job(tmp_path, "b", regime={"name": "accumulate"})
    assert work(first, tmp_path, until=0) == record_of(first, tmp_path)
    record = work(second, tmp_path)
    assert record["error"] is None and [0, "train"] in record["shared"]
    assert work(first, tmp_path)["error"] is None
    assert {run.path.parent.name for run in finished(tmp_path)} == {"a", "b"}


def test_errors_are_noted_and_a_fault_leaves_a_traceback(tmp_path, monkeypatch):
    mine = job(tmp_path)
    for error in (StoreError("the disk is full"), ZeroDivisionError("division by zero")):
        monkeypatch.setattr(
            module, "run_chain", lambda *args, error=error, **more: (_ for _ in ()).throw(error)
        )
        said = work(mine, tmp_path)["error"]
        assert said == (str(error) if isinstance(error, StoreError) else f"ZeroDivisionError: {error}")
        assert (mine.path.parent / "seed-0.traceback.txt").exists() is isinstance(error, ZeroDivisionError)


def test_a_job_that_lost_its_run_has_no_record(tmp_path, monkeypatch):
    def lost(*args, **more):
        raise LeaseLost("taken over")

    monkeypatch.setattr(module, "run_chain", lost)
    with pytest.raises(LeaseLost):
        work(job(tmp_path), tmp_path)


def test_the_other_processes_of_a_training_copy_nothing(tmp_path, monkeypatch):
    work(job(tmp_path), tmp_path)
    monkeypatch.setattr(module, "run_chain", lambda *args, **more: None)
    monkeypatch.setenv("RANK", "1")
    assert job(tmp_path, "b").run(tmp_path) == [] and not (tmp_path / "b").exists()


def test_a_decision_is_kept_by_runs_that_a_job_has_begun_elsewhere(tmp_path, monkeypatch):
    class Search(Job):
        def begun(self):
            return [self.path / "share-1"]

    asks = configs.parse({**RAW, "train": {"precision": "auto"}})
    settled = configs.parse({**RAW, "train": {"precision": "bf16"}})
    search = Search("a", 0, asks, tmp_path / "a")
    work(Job("a", 0, settled, tmp_path / "a" / "share-1"), tmp_path, until=0)
    said = []
    values = decided([search], said.append)
    assert values == [{"train.precision": "bf16"}] and said == [
        "train.precision=auto: bf16, as when the run began"
    ]
    assert with_values(search, values[0]).config.train.precision == "bf16"
    assert with_values(search, StoreError("no")) is search
