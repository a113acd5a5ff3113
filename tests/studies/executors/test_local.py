"""Jobs of a study in this process and in others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from difflab.runs.run import open_run
from difflab.studies.executors.local import Local, visible
from difflab.studies.job import Job, groups, record_of, work
from difflab.studies.sweep import Sweep, jobs, run_sweep, runs_of

BASE = {
    "generations": 1,
    "data": {"source": "exact", "train_size": 20},
    "model": {"family": "gaussian", "replicates": 4},
    "sample": {"count": 20},
}


ARMS = {
    "replace": {},
    "accumulate": {"regime.name": "accumulate"},
    "all so far": {"regime.name": "accumulate_subsample"},
}


def sweep(**changes):
    return Sweep(**{"base": BASE, "seeds": 2, "arms": ARMS, **changes})


class Killed(Job):
    """A job that kills its own process, where that is a worker."""

    def __getattribute__(self, name):
        if name == "config" and multiprocessing.parent_process():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getattribute__(name)


def test_a_killed_worker_costs_its_own_job_alone_and_that_can_be_resumed(tmp_path):
    listed = jobs(sweep(arms={**ARMS, "larger": {"data.train_size": 30}}, seeds=1), tmp_path, tmp_path / "s")
    listed[0] = Killed(**vars(listed[0]))
    found = {}
    Local(2).run(listed, tmp_path / "s", lambda job, record: found.update({job.arm: record}))
    assert {arm: record["error"] for arm, record in found.items() if arm != "replace"} == {
        "accumulate": None,
        "all so far": None,
        "larger": None,
    }
    assert found["replace"] == {
        "arm": "replace", "seed": 0, "path": "replace/seed-0", "shared": [],
        "error": "its process was killed, usually because memory ran out; the same command with fewer "
        "--workers resumes it",
    }  # fmt: skip
    assert work(listed[0], tmp_path / "s")["error"] is None
    assert open_run(listed[0].path).generations == [0, 1]


@pytest.mark.parametrize(
    ("given", "gpus", "names"),
    [
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("2,3", 2, ["2", "3"]),
        (" GPU-5e1f, MIG-77a0 ", 2, ["GPU-5e1f", "MIG-77a0"]),
        ("3,9", 1, ["3"]),
    ],
)
def test_gpus_are_those_that_the_process_was_given(monkeypatch, given, gpus, names):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible(gpus) == names


def test_each_worker_sees_its_own_gpu(tmp_path, monkeypatch):
    from difflab.studies.executors import local as module

    made = []

    class Pool:
        def __init__(self, workers, context, settle, place):
            made.append((settle, place))

        def submit(self, call, modules):
            pass

        def shutdown(self):
            pass

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5e1f")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(module, "ProcessPoolExecutor", Pool)
    Local(3).run([], tmp_path, None)
    assert [place[0] for _, place in made] == ["2", "GPU-5e1f", "2"]
    settle, place = made[1]
    settle(*place)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-5e1f"


def test_labs_are_run_and_take_nothing_over(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "difflab.studies.job.adopt", lambda *args: pytest.fail("stages of labs depend on each other")
    )
    arms = {"pooled": {"ecosystem.exchange": "pooled"}, "isolated": {"ecosystem.exchange": "isolated"}}
    records = run_sweep(
        sweep(base={**BASE, "ecosystem": {"labs": 2, "exchange": "pooled"}}, arms=arms, seeds=1),
        tmp_path,
        tmp_path / "s",
    )
    assert [(r["error"], r["shared"]) for r in records] == [(None, []), (None, [])]
    assert all(len(run.labs) == 2 for _, _, run in runs_of(tmp_path / "s"))


class Threads:
    """Workers in this process, which note what starts. A whole run of the leader ends after that of another arm."""

    started: list[tuple[str, int | None]] = []
    other = threading.Event()

    def __init__(self, device, threads, needed):
        assert not needed  # nothing denoises here
        self.pool = ThreadPoolExecutor(1)

    def run(self, job, out, until=None):
        self.started.append((job.arm, until))
        record = work(job, out, until=until)
        if until is None and job.arm == "replace":
            assert self.other.wait(60), "no other arm was started beside the first one"
        elif until is None:
            self.other.set()
        return record


def test_the_other_arms_start_with_generation_0_of_the_first_one(tmp_path, monkeypatch):
    monkeypatch.setattr("difflab.studies.executors.local.Worker", Threads)
    listed = jobs(sweep(seeds=1), tmp_path, tmp_path / "s")
    found = {}
    Local(2).run(listed, tmp_path / "s", lambda job, record: found.update({job.arm: record}))
    assert Threads.started[0] == ("replace", 0)
    assert sorted(Threads.started[1:]) == [("accumulate", None), ("all so far", None), ("replace", None)]
    assert {arm: record["error"] for arm, record in found.items()} == dict.fromkeys(ARMS)
    assert all([0, "train"] in found[arm]["shared"] for arm in ("accumulate", "all so far"))


def test_a_job_that_shares_nothing_is_run_at_once(tmp_path):
    alone = {"x": {"data.train_size": 21}, "y": {"data.train_size": 22}}
    assert [len(group) for group in groups(jobs(sweep(arms=alone, seeds=1), tmp_path, tmp_path))] == [1, 1]
    labs = {**BASE, "ecosystem": {"labs": 2, "exchange": "pooled"}}
    assert [len(group) for group in groups(jobs(sweep(base=labs, seeds=1), tmp_path, tmp_path))] == [1, 1, 1]


def test_one_process_runs_a_group_after_the_other_with_its_first_job_first(tmp_path, monkeypatch):
    arms = {"a": {}, "c": {"data.train_size": 30}, "b": {"regime.name": "accumulate"}}
    listed, ran = jobs(sweep(arms=arms), tmp_path, tmp_path), []

    def noted(job, out, report):
        ran.append((job.arm, job.seed))
        return record_of(job, tmp_path)

    monkeypatch.setattr("difflab.studies.executors.local.work", noted)
    Local().run(listed, tmp_path, lambda job, record: None)
    grouped = [[("a", 0), ("b", 0)], [("a", 1), ("b", 1)], [("c", 0)], [("c", 1)]]
    assert [[(job.arm, job.seed) for job in group] for group in groups(listed)] == grouped
    assert ran == [arm_and_seed for group in grouped for arm_and_seed in group]


@pytest.mark.parametrize(("workers", "expected"), [(1, 3), (2, 2)])
def test_speeds_are_measured_with_the_threads_that_the_jobs_will_have(
    workers, expected, tmp_path, monkeypatch
):
    seen = []

    def decide(runs, say):
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr("difflab.studies.job.decide", decide)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyboardInterrupt):
            Local(workers).run([], tmp_path, lambda job, record: None)
        assert seen == [expected] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
