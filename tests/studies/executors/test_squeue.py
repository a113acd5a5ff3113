from __future__ import annotations

import pytest

from difflab.core.errors import ConfigError
from difflab.studies.executors import squeue
from difflab.studies.executors.squeue import Queued, QueueError, default_time, ending, largest_array, minutes


def commands(monkeypatch, tmp_path, **scripts):
    for name, lines in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_only_jobs_with_these_names_are_listed(monkeypatch, tmp_path):
    text = "7_3|a|b-1|RUNNING|n1|1:02|None\n8|other|PENDING||0:00|Priority\n9|c|COMPLETING|n2|0:05|None"
    commands(monkeypatch, tmp_path, squeue=f"cat <<'E'\n{text}\nE")
    with pytest.raises(ValueError):  # a name never holds the separator
        squeue.queued(["b-1"])
    commands(monkeypatch, tmp_path, squeue="cat <<'E'\n" + text.replace("a|b-1", "b-1") + "\nE")
    assert squeue.queued(["b-1", "c"]) == [
        Queued("7_3", "b-1", 3, "RUNNING", "n1", "1:02", "None"),
        Queued("9", "c", 0, "COMPLETING", "n2", "0:05", "None"),
    ]
    assert all(each.runs for each in squeue.queued(["b-1", "c"]))
    assert not squeue.queued(["other"])[0].runs
    assert squeue.queued([]) == []


@pytest.mark.parametrize(
    ("scripts", "said"),
    [
        ({"sacct": "echo 'OUT_OF_MEMORY|0:125'"}, "OUT_OF_MEMORY, exit code 0:125"),
        (
            {
                "sacct": "exit 1",
                "scontrol": "echo 'JobId=7 JobState=FAILED Reason=JobLaunchFailure ExitCode=0:9'",
            },
            "FAILED, JobLaunchFailure, exit code 0:9",
        ),
        (
            {"sacct": "true", "scontrol": "echo 'JobId=7 JobState=COMPLETED Reason=None ExitCode=0:0'"},
            "COMPLETED, exit code 0:0",
        ),
        (
            {
                "sacct": "exit 1",
                "scontrol": "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
            },
            "",
        ),
    ],
    ids=["accounting", "no-accounting", "empty-accounting", "forgotten"],
)
def test_how_a_job_has_ended(monkeypatch, tmp_path, scripts, said):
    commands(monkeypatch, tmp_path, **scripts)
    assert ending("7_0") == said


def test_limits_of_the_cluster(monkeypatch, tmp_path):
    commands(
        monkeypatch, tmp_path, scontrol="echo 'MaxArraySize            = 101'",
        sinfo="printf 'gpu|4:00:00|7-00:00:00\\nlow*|n/a|2-00:00:00\\nfree|n/a|infinite\\n'",
    )  # fmt: skip
    assert largest_array() == 100
    assert default_time(None) == "2-00:00:00" and default_time("gpu") == "4:00:00"
    commands(monkeypatch, tmp_path, sinfo="echo 'free|n/a|infinite'", scontrol="true")
    assert default_time("free") == "UNLIMITED" and minutes("UNLIMITED") > 1e6
    assert largest_array() == 1000


def test_a_command_that_is_missing_fails_or_hangs_is_one_line(monkeypatch, tmp_path):
    commands(
        monkeypatch,
        tmp_path,
        scancel="echo one >&2; echo 'scancel: error: Invalid user' >&2; exit 1",
        squeue="sleep 9",
    )
    with pytest.raises(QueueError, match=r"^scancel: scancel: error: Invalid user$"):
        squeue.cancel(["7"])
    with pytest.raises(QueueError, match="there is no smissing here"):
        squeue._slurm("smissing")
    monkeypatch.setattr(squeue, "TIMEOUT_S", 0.2)
    with pytest.raises(QueueError, match=r"squeue has not answered within 0.2 s"):
        squeue.queued(["a"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1:30", 1.5), ("4:00:00", 240), ("2-12", 3600), ("1-00:30", 1470), ("1-02:03:30", 1563.5)],
)
def test_time_limits(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "1-", "-5", "4h"])
def test_times_that_are_none(text):
    with pytest.raises(ConfigError, match="give minutes, or hours as 4:00:00"):
        minutes(text)
