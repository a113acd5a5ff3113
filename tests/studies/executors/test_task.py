from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fake_slurm import FakeSlurm

from difflab.core.errors import ConfigError
from difflab.studies.executors.ledger import STARTS, Ledger
from difflab.studies.executors.task import Task, settle
from difflab.studies.job import record_of
from difflab.studies.sweep import Sweep, jobs

BASE = {
    "generations": 1,
    "data": {"source": "exact", "train_size": 20},
    "model": {"family": "gaussian", "replicates": 4},
    "sample": {"count": 20},
}
ARMS = {"replace": {}, "accumulate": {"regime.name": "accumulate"}, "alone": {"data.train_size": 30}}


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    return FakeSlurm(monkeypatch, tmp_path)


def sweep(**changes):
    return Sweep(**{"base": BASE, "seeds": 1, "arms": ARMS, **changes})


def one_task(fake, tmp_path):
    job = jobs(sweep(), tmp_path, tmp_path / "s")[0]
    fake.folder = str(tmp_path / "s" / ".slurm" / "logs")
    return Task(job, tmp_path / "s"), Ledger(tmp_path / "s")


def test_starts_without_progress_are_counted_and_end_with_a_sentence(fake, tmp_path, monkeypatch):
    task, ledger = one_task(fake, tmp_path)
    stopped = replace(task)
    with monkeypatch.context() as patch:
        patch.setattr(Task, "_work", lambda *args: (_ for _ in ()).throw(SystemExit))  # a time limit
        for restarts in range(STARTS):
            with pytest.raises(SystemExit):
                fake.start("7_0", stopped, restarts)
            assert ledger.entry("replace/seed-0").stalled == restarts
        (task.job.path / "gen-000").mkdir(parents=True)
        (task.job.path / "gen-000" / "checkpoint.safetensors").write_bytes(b"a step further")
        with pytest.raises(SystemExit):
            fake.start("7_0", stopped, STARTS)
        assert ledger.entry("replace/seed-0").stalled == 0, "a checkpoint is progress"
        for restarts in range(STARTS + 1, 2 * STARTS):
            with pytest.raises(SystemExit):
                fake.start("7_0", stopped, restarts)
    said = fake.start("7_0", task, 2 * STARTS)
    assert said.startswith(f"Slurm has started it {STARTS + 1} times without a finished stage")
    assert ledger.record(task.job)["error"] == said
    ledger.forget(task.job)
    assert ledger.record(task.job) is None
    (task.job.path / "gen-000" / "checkpoint.safetensors").unlink()
    (task.job.path / "gen-000").rmdir()
    assert fake.start("8_0", task) == "", "a new submission starts with a new count"


def test_a_start_that_slurm_has_replaced_does_not_overwrite_the_record_of_the_new_one(
    fake, tmp_path, monkeypatch
):
    task, ledger = one_task(fake, tmp_path)
    inner = Task._work

    def lost(self, ledger):
        monkeypatch.setattr(Task, "_work", inner)
        assert fake.start("7_0", task, 1) == ""  # the new start, on another node
        return record_of(self.job, self.out, "the old one has failed")

    monkeypatch.setattr(Task, "_work", lost)
    assert fake.start("7_0", task) == "the old one has failed"
    assert ledger.record(task.job)["error"] is None


def test_a_process_has_the_threads_and_the_rank_that_slurm_gives_it(fake, tmp_path, monkeypatch):
    one_task(fake, tmp_path)
    given = {"SLURM_NTASKS": "4", "SLURM_NNODES": "1", "SLURM_PROCID": "3", "SLURM_LOCALID": "3"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "before")
    monkeypatch.setenv("MASTER_PORT", "29400")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen = []

    def call():
        settle()
        import os

        seen.append([os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")])
        seen.append(torch.get_num_threads())

    fake.start("7_0", call)
    assert seen == [["3", "4", "3", "127.0.0.1"], 1]
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    start = fake.given
    monkeypatch.setattr(
        fake, "given", lambda slurm_id, restarts: start(slurm_id, restarts) | {"SLURM_CPUS_PER_TASK": ""}
    )
    fake.start("7_0", call)
    assert seen[3] == 2, "8 CPUs of the node for 4 processes"


def test_it_says_so_outside_of_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ConfigError, match="this is started by Slurm only"):
        settle()


def test_a_dump_that_was_interrupted_does_not_keep_the_job_from_being_requeued(fake, tmp_path):
    task, _ = one_task(fake, tmp_path)
    left = tmp_path / "s" / ".slurm" / "logs" / "7_0_submitted.pkl.save_tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a pickle")
    assert fake.start("7_0", task) == "" and not left.exists()
    again = task.checkpoint()
    assert again.function == task
