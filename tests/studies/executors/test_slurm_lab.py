"""A real Slurm on loopback: whatever happens on the way, a sweep ends with the bits of a local one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import slurm_lab
import yaml

from difflab.runs.lease import highest
from difflab.studies.executors.local import Local
from difflab.studies.sweep import Sweep, run_sweep

pytestmark = [
    pytest.mark.skipif(bool(slurm_lab.missing()), reason=f"a real Slurm {slurm_lab.missing()}"),
    pytest.mark.timeout(400),
]

SWEEP = {
    "base": {
        "generations": 40,
        "data": {"source": "exact", "train_size": 20},
        "model": {"family": "gaussian", "replicates": 4},
        "sample": {"count": 20},
    },
    "seeds": 2,
    "arms": {"replace": {}, "accumulate": {"regime.name": "accumulate"}, "alone": {"data.train_size": 30}},
}
PATHS = [f"{arm}/seed-{seed}" for arm in SWEEP["arms"] for seed in range(2)]


@pytest.fixture(scope="module")
def lab():
    with tempfile.TemporaryDirectory(prefix="slurm-lab-") as place, slurm_lab.running(Path(place)) as lab:
        yield lab


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """metrics.jsonl of every run of a local sweep, by path."""
    out = tmp_path_factory.mktemp("local")
    run_sweep(Sweep(**SWEEP), out, out / "s", Local(1))
    return metrics(out / "s")


def metrics(out):
    return {path: (out / path / "metrics.jsonl").read_bytes() for path in PATHS}


def start(lab, out, *more):
    """The command of a user, which submits the sweep and waits."""
    file = out.parent / "sweep.yaml"
    file.write_text(yaml.safe_dump(SWEEP, sort_keys=False))
    words = [
        sys.executable,
        "-m",
        "difflab",
        "sweep",
        str(file),
        "--out",
        str(out),
        "--engine",
        "slurm",
        *more,
    ]
    return subprocess.Popen(words, env=lab.env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ended(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def entry(out, key):
    with suppress(OSError, ValueError):
        return json.loads((out / ".slurm" / "jobs" / f"{key}.json").read_text())
    return None


def generations(out, path):
    return len(list((out / path).glob("gen-*")))


def in_the_middle(out):
    """Jobs that are in the middle of their chain."""
    found = []
    for path in PATHS:
        seen = entry(out, path)
        if seen and not seen["record"] and 2 < generations(out, path) < 20:
            found.append(path)
    return found


def steps_of(lab, slurm_id):
    """Python processes of a job."""
    array, _, task = slurm_id.partition("_")
    wanted = f"SLURM_ARRAY_TASK_ID={task}" if task else f"SLURM_JOB_ID={array}"
    also = f"SLURM_ARRAY_JOB_ID={array}" if task else wanted
    found = []
    for pid in lab.steps():
        with suppress(OSError):
            words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
            if {wanted, also, "SLURM_PROCID=0"} <= set(words) and b"submitit" in Path(
                f"/proc/{pid}/cmdline"
            ).read_bytes():
                found.append(pid)
    return found


def test_the_bits_are_those_of_a_local_sweep_and_the_same_command_submits_nothing(lab, local, tmp_path):
    out = tmp_path / "s"
    code, _, err = ended(start(lab, out, "--slurm", "partition=low,cpus_per_task=1", "--max-jobs", "3"))
    assert code == 0, err
    assert metrics(out) == local
    nodes = {entry(out, path)["node"] for path in PATHS}
    assert nodes == {"n1", "n2"}
    arrays = sorted((out / ".slurm" / "arrays").iterdir())
    assert [len(json.loads(path.read_text())["keys"]) for path in arrays] == [2, 6]
    code, _, err = ended(start(lab, out))
    assert code == 0 and "submitted" not in err
    assert sorted((out / ".slurm" / "arrays").iterdir()) == arrays


def test_a_failed_leader_and_a_job_killed_for_memory(lab, local, tmp_path):
    out = tmp_path / "s"
    command = start(lab, out, "--max-jobs", "2")
    lab.wait("the leader", 90, lambda: entry(out, "replace/seed-0.first"))
    for pid in steps_of(lab, entry(out, "replace/seed-0.first")["slurm_id"]):
        os.kill(pid, signal.SIGKILL)
    lab.wait(
        "a follower", 90, lambda: entry(out, "accumulate/seed-0") and generations(out, "accumulate/seed-0")
    )
    killed = steps_of(lab, entry(out, "accumulate/seed-0")["slurm_id"])
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)  # as the kernel does if memory runs out
    code, _, err = ended(command)
    assert code == 1
    assert "accumulate, seed 0 FAILED: Slurm job" in err and "the same command submits it again" in err
    said = subprocess.run(
        [sys.executable, "-m", "difflab", "status", str(out), "--json"],
        env=lab.env,
        capture_output=True,
        text=True,
    )
    by_path = {row["path"]: row for row in map(json.loads, said.stdout.splitlines())}
    assert said.returncode == 1 and by_path["accumulate/seed-0"]["state"] == "failed"
    assert {by_path[path]["state"] for path in PATHS if path != "accumulate/seed-0"} == {"done"}
    code, _, err = ended(start(lab, out))
    assert code == 0 and "submitted 1 job to Slurm" in err
    assert metrics(out) == local


def test_a_command_that_is_killed_a_preemption_and_a_lost_node(lab, local, tmp_path):
    out = tmp_path / "s"
    command = start(lab, out)
    lab.wait("a running job", 90, lambda: entry(out, "accumulate/seed-0"))
    command.kill()
    command.communicate()
    lab.command("sbatch", "-p", "high", "-N", "2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
    command = start(lab, out)  # attaches to the jobs in the queue
    lab.wait("a restart", 120, lambda: any((entry(out, path) or {}).get("restarts") for path in PATHS))
    lab.wait("a job to lose", 90, lambda: in_the_middle(out))
    lost = in_the_middle(out)[0]
    before, lease = entry(out, lost), highest(out / lost)
    steps = steps_of(lab, before["slurm_id"])
    assert steps
    for pid in steps:
        os.kill(pid, signal.SIGSTOP)  # a node that Slurm does not see any more, and whose step lives on
    lab.kill(before["node"])
    lab.wait("a writer on the other node", 120, lambda: highest(out / lost) > lease)
    assert entry(out, lost)["restarts"] > before["restarts"]
    for pid in steps:
        os.kill(pid, signal.SIGCONT)  # now two processes write into one run
    lab.wait(
        "the end of the first writer", 30, lambda: not any(Path(f"/proc/{pid}/cwd").exists() for pid in steps)
    )
    log = (out / ".slurm" / "logs" / f"{before['slurm_id']}_0_log.out").read_text()
    assert "was taken over by process" in log
    code, _, err = ended(command)
    lab.node(before["node"])
    assert code == 0, err
    assert metrics(out) == local
    assert "submitted" not in err, "the second command has found the jobs of the first one"
