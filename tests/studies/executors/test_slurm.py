"""Slurm as an engine, with a Slurm in this process. `test_slurm_lab` tries a real one."""

from __future__ import annotations

import json

import pytest
import torch
from fake_slurm import FakeSlurm

from difflab.cli.main import main
from difflab.core.errors import ConfigError, StoreError
from difflab.runs import lease
from difflab.studies.calibrate import calibrate
from difflab.studies.executors import slurm as module
from difflab.studies.executors.local import Local
from difflab.studies.executors.slurm import Slurm, cancel
from difflab.studies.executors.task import Decide
from difflab.studies.status import headline, status
from difflab.studies.sweep import Sweep, run_sweep

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


def metrics(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.glob("*/*/metrics.jsonl")}


def paths(tasks):
    return [(task.job.path.parent.name, task.first) for task in tasks]


def test_the_bits_are_those_of_this_machine_and_followers_wait_for_generation_0(fake, tmp_path):
    said = []
    settings = {"partition": "low", "gpus_per_node": 2, "reservation": "mine"}
    records = run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm(settings), say=said.append)
    run_sweep(sweep(), tmp_path, tmp_path / "local", Local(1))
    assert metrics(tmp_path / "s") == metrics(tmp_path / "local") and len(records) == 3
    assert [paths(tasks) for _, tasks in fake.submitted] == [
        [("replace", True)],
        [("alone", False)],
        [("replace", False), ("accumulate", False)],
    ]
    first, alone, rest = (options for options, _ in fake.submitted)
    assert "dependency" not in first and "dependency" not in alone and rest["dependency"] == "afterany:1"
    assert first["ntasks_per_node"] == first["gpus_per_node"] == 2, "one process per GPU"
    assert first["additional_parameters"] == {"reservation": "mine", "time": "1-00:00:00", "requeue": True}
    assert first["time"] == 1440 and rest["array_parallelism"] == 2
    assert said[-1] == "3 of 3 jobs have ended, 0 run"
    assert [0, "train"] in records[1]["shared"]

    run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm(), say=said.append)
    assert len(fake.submitted) == 3, "the same command submits nothing"
    run_sweep(sweep(overrides={"generations": 2}), tmp_path, tmp_path / "s", Slurm())
    assert [paths(tasks) for _, tasks in fake.submitted[3:]] == [
        [("alone", False)],
        [("replace", False), ("accumulate", False)],
    ], "generation 0 exists"


def test_a_job_that_vanishes_is_named_with_slurms_reason_and_submitted_again(fake, tmp_path):
    fake.lose.add("2")
    said = []
    records = run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm(), say=said.append)
    assert [record["error"] for record in records] == [
        None,
        None,
        "Slurm job 2 ended without a result (FAILED, OutOfMemory, exit code 0:125); the same command submits "
        "it again",
    ]
    assert f"alone, seed 0 FAILED: {records[2]['error']}" in said
    states = {job.path: job.state for job in status(tmp_path / "s")[0]}
    assert states == {"replace/seed-0": "done", "accumulate/seed-0": "done", "alone/seed-0": "failed"}
    records = run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm())
    assert not any(record["error"] for record in records)
    assert paths(fake.submitted[-1][1]) == [("alone", False)]


def test_a_leader_that_fails_costs_nothing_but_time(fake, tmp_path):
    fake.lose.add("1")
    records = run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm())
    assert not any(record["error"] for record in records)


def test_a_second_command_finds_the_jobs_of_the_first_one(fake, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "follow", lambda *args: pytest.exit("the command is killed"))
        with pytest.raises(pytest.exit.Exception):
            run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm())
    changed = sweep(overrides={"sample.count": 21})
    with pytest.raises(ConfigError, match=r"works on replace/seed-0.first with another config; .* --cancel"):
        run_sweep(changed, tmp_path, tmp_path / "s", Slurm())
    said = []
    fake.away = 0
    records = run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm(), say=said.append)
    assert len(fake.submitted) == 3 and not any(record["error"] for record in records)


def test_a_controller_that_is_away_for_a_while_does_not_fail_a_job(fake, tmp_path):
    run_follow, said = module.follow, []

    def away(*args):
        fake.away = 3
        run_follow(*args)

    module.follow = away
    try:
        records = run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm(), say=said.append)
    finally:
        module.follow = run_follow
    assert not any(record["error"] for record in records)
    assert said.count("squeue: Unable to contact slurm controller; trying again") == 1


def test_no_second_command_beside_the_first(fake, tmp_path):
    home = tmp_path / "s" / ".slurm"
    home.mkdir(parents=True)
    held = lease.claim(home)
    try:
        with pytest.raises(
            StoreError, match=r"another process is working .*; the jobs go on, and difflab status"
        ):
            run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm())
    finally:
        held.release()


def test_arrays_are_as_long_as_the_cluster_allows_and_at_most_so_many_jobs_run(fake, tmp_path):
    fake.largest = 3
    arms = {f"n{n}": {"data.train_size": n} for n in range(20, 25)}
    run_sweep(sweep(arms=arms), tmp_path, tmp_path / "s", Slurm(max_jobs=3))
    assert [len(tasks) for _, tasks in fake.submitted] == [2, 2, 1]
    assert {options["array_parallelism"] for options, _ in fake.submitted} == {1}
    assert len({options["job_name"] for options, _ in fake.submitted}) == 3
    fake.largest = 1001
    run_sweep(sweep(), tmp_path, tmp_path / "t", Slurm(max_jobs=2))
    assert [options["array_parallelism"] for options, _ in fake.submitted[3:]] == [2, 2]
    assert fake.submitted[4][0]["dependency"] == "afterany:4", (
        "also what need not wait, or too many would run"
    )


def test_what_is_auto_is_decided_on_a_node_for_all_jobs(fake, tmp_path, monkeypatch):
    from difflab.loop import auto
    from difflab.loop.choice import Choice

    measured, said = [], []

    def choices(config, runs, compile_now):
        measured.append(config.name)
        return [Choice("train.precision", "bf16", "measured")]

    monkeypatch.setattr(auto, "choices", choices)
    asks = sweep(overrides={"train.precision": "auto"})
    records = run_sweep(asks, tmp_path, tmp_path / "s", Slurm(), say=said.append)
    assert not any(record["error"] for record in records) and len(measured) == 1, "one per model"
    assert "train.precision=auto: bf16, measured" in said
    assert isinstance(fake.submitted[0][1][0], Decide)
    assert [options.get("dependency") for options, _ in fake.submitted] == [
        None, "afterany:1", "afterany:1", "afterany:1:2",
    ]  # fmt: skip
    fake.lose.add("5")
    records = run_sweep(asks, tmp_path, tmp_path / "t", Slurm())
    assert {record["error"] for record in records} == {"the job that decides what is auto has failed"}


def test_a_calibration_has_one_job_per_seed_and_the_result_of_this_machine(fake, tmp_path):
    from difflab import config as configs

    config = configs.parse({**BASE, "regime": {"name": "fresh_real"}, "generations": 2})
    found = [
        calibrate(config, tmp_path / name, "variance", 0.5, seeds=2, resolution=1 / 4, engine=engine)
        for name, engine in (("slurm", Slurm()), ("local", Local(1)))
    ]
    for each in found:
        del each["minutes"]
    assert found[0] == found[1]
    assert [[task.job.path.name for task in tasks] for _, tasks in fake.submitted] == [["seed-0", "seed-1"]]


def test_cancel_takes_the_jobs_out_of_the_queue(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "follow", lambda *args: None)
    fake.hold = {f"{i}_{j}" for i in range(9) for j in range(9)} | {str(i) for i in range(9)}
    with pytest.raises(KeyError):  # nothing has ended
        run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm())
    found, trouble = status(tmp_path / "s")
    assert [job.state for job in found] == ["queued"] * 3 and not trouble
    assert headline(found) == "3 jobs: 3 queued; 0 hours of work so far (processes times time)"
    capsys.readouterr()
    assert main(["status", str(tmp_path / "s"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["where"] == "no node (3_0)"
    assert cancel(tmp_path / "s") == 4 and not fake.queue
    assert cancel(tmp_path / "s") == 0
    with pytest.raises(ConfigError, match="holds no jobs of a cluster"):
        cancel(tmp_path / "other")
    fake.away = 99
    found, trouble = status(tmp_path / "s")
    assert [job.state for job in found] == ["not started"] * 3
    assert trouble.startswith("the queue cannot be asked (squeue: Unable to contact")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"job_name": "x"}, "--slurm job_name=...: difflab sets this itself; leave it out"),
        ({"time": "soon"}, "time=soon: give minutes, or hours as 4:00:00"),
        ({"time": "1:2:3:4"}, "time=1:2:3:4: give minutes"),
    ],
)
def test_settings_that_cannot_be(fake, tmp_path, settings, sentence):
    with pytest.raises(ConfigError, match="^" + sentence.replace(".", r"\.")):
        run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm(settings))
    assert not fake.submitted


def test_what_sbatch_refuses_is_one_line(tmp_path, monkeypatch, capfd):
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\n"
        "echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2\nexit 1\n"
    )
    (tmp_path / "squeue").write_text("#!/bin/sh\n")
    (tmp_path / "sinfo").write_text("#!/bin/sh\n")
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'MaxArraySize = 1001'\n")
    for name in ("srun", "sbatch", "squeue", "sinfo", "scontrol"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ConfigError) as raised:
        run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm({"partition": "x"}))
    assert str(raised.value) == "sbatch: Batch job submission failed: Invalid partition name specified"
    assert "invalid partition" not in capfd.readouterr().err


def test_without_slurm_or_submitit_one_line_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"^there is no scontrol here: --engine slurm needs the commands of Slurm"
    ):
        run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm())
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'needs submitit: pip install "difflab\[cluster\]"'):
        run_sweep(sweep(), tmp_path, tmp_path / "s", Slurm())
