from __future__ import annotations

import pytest

from difflab.core.errors import ConfigError
from difflab.runs import lease
from difflab.studies.status import headline, status, study_of
from difflab.studies.sweep import Sweep, run_sweep

BASE = {
    "generations": 2,
    "data": {"source": "exact", "train_size": 20},
    "model": {"family": "gaussian", "replicates": 4},
    "sample": {"count": 20},
}


class Until:
    """An engine that is stopped after generation 0 of the first job."""

    def run(self, listed, out, note, report=None, say=None):
        listed[0].run(out, until=0)


def test_a_sweep_on_this_machine(tmp_path):
    sweep = Sweep(base=BASE, seeds=1, arms={"a": {}, "b": {"regime.name": "accumulate"}})
    run_sweep_until(sweep, tmp_path)
    jobs, trouble = status(tmp_path / "s")
    assert [(job.path, job.state, job.generation, job.generations) for job in jobs] == [
        ("a/seed-0", "stopped", 0, 2), ("b/seed-0", "not started", None, 2),
    ]  # fmt: skip
    held = lease.claim(tmp_path / "s" / "a" / "seed-0")
    try:
        running = status(tmp_path / "s")[0][0]
        assert running.state == "running" and running.where.startswith("process ")
    finally:
        held.release()
    run_sweep(sweep, tmp_path, tmp_path / "s")
    jobs, trouble = status(tmp_path / "s")
    assert [(job.state, job.generation) for job in jobs] == [("done", 2)] * 2 and not trouble
    assert headline(jobs).startswith("2 jobs: 2 done; ")
    assert jobs[0].hours > 0


def run_sweep_until(sweep, tmp_path):
    with pytest.raises(KeyError):  # no job has ended
        run_sweep(sweep, tmp_path, tmp_path / "s", Until())


def test_a_failed_job_has_its_reason(tmp_path):
    sweep = Sweep(base=BASE, seeds=1, arms={"a": {}})
    (tmp_path / "s" / "a").mkdir(parents=True)
    (tmp_path / "s" / "a" / "seed-0").write_text("a file where a folder must be")
    run_sweep(sweep, tmp_path, tmp_path / "s")
    job = status(tmp_path / "s")[0][0]
    assert job.state == "failed" and job.reason


def test_labs_are_as_far_as_the_last_of_them(tmp_path):
    labs = {**BASE, "generations": 1, "ecosystem": {"labs": 2, "exchange": "pooled"}}
    run_sweep(Sweep(base=labs, seeds=1, arms={"a": {}}), tmp_path, tmp_path / "s")
    assert status(tmp_path / "s")[0][0].generation == 1
    for path in (tmp_path / "s" / "a" / "seed-0" / "lab-1" / "gen-001").glob("*"):
        if path.is_file():
            path.unlink()
    assert status(tmp_path / "s")[0][0].generation == 0


def test_a_sweep_of_an_earlier_version_has_no_plan(tmp_path):
    import json

    run_sweep(Sweep(base=BASE, seeds=1, arms={"a": {}}), tmp_path, tmp_path / "s")
    stored = json.loads((tmp_path / "s" / "sweep.json").read_text())
    del stored["planned"]
    (tmp_path / "s" / "sweep.json").write_text(json.dumps(stored))
    assert [(job.path, job.state) for job in status(tmp_path / "s")[0]] == [("a/seed-0", "done")]


def test_where_a_study_is(tmp_path):
    assert study_of(tmp_path) is None
    (tmp_path / "runs" / ".slurm").mkdir(parents=True)
    assert study_of(tmp_path) == tmp_path / "runs"
    with pytest.raises(ConfigError, match="holds no study that has begun"):
        status(tmp_path / "runs")
