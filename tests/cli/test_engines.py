from __future__ import annotations

import pytest
import yaml

from difflab.cli.engines import settings
from difflab.cli.main import main, parse
from difflab.core.errors import ConfigError
from difflab.studies.executors.local import Local
from difflab.studies.executors.slurm import Slurm


def chosen(*words):
    from difflab.cli.engines import engine_of

    return engine_of(parse(["sweep", "s.yaml", *words]))


def test_the_engine_is_this_machine_or_slurm():
    assert chosen() == Local(None) and chosen("--workers", "2") == Local(2)
    words = (
        "--engine",
        "slurm",
        "--slurm",
        "partition=low,high,gpus-per-node=1",
        "--slurm",
        "time=90",
        "--max-jobs",
        "4",
    )
    assert chosen(*words) == Slurm({"partition": "low,high", "gpus_per_node": 1, "time": "90"}, 4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--slurm", "time=90"), "--slurm is for a cluster: add --engine slurm"),
        (("--max-jobs", "2"), "--max-jobs is for a cluster: add --engine slurm"),
        (("--engine", "slurm", "--workers", "2"), "--workers is for this machine; on a cluster it is --max-jobs"),
        (("--engine", "slurm", "--max-jobs", "0"), "--max-jobs is 0: give at least 1"),
        (("--engine", "slurm", "--slurm", "gpu"), "--slurm gpu: write KEY=VALUE"),
        (("--engine", "slurm", "--slurm", "time="), "--slurm time=: write KEY=VALUE"),
    ],
)  # fmt: skip
def test_options_that_do_not_belong_together(words, said):
    with pytest.raises(ConfigError, match="^" + said):
        chosen(*words)


def test_settings_are_options_of_sbatch():
    assert settings(["--cpus-per-task=4"]) == {"cpus_per_task": 4}
    assert settings(["constraint=a100|h100,mem=40GB"]) == {"constraint": "a100|h100", "mem": "40GB"}


@pytest.mark.parametrize(
    "words",
    [["sweep", "SWEEP"], ["claims"], ["calibrate", "digits", "--measure", "recall", "--tolerance", "0.1"]],
)
def test_cancel_says_if_nothing_was_submitted(words, tmp_path, capsys):
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({"base": "digits", "arms": {"a": {}}}))
    given = [str(file) if word == "SWEEP" else word for word in words]
    assert main([*given, "--out", str(tmp_path / "out"), "--cancel"]) == 2
    assert "holds no jobs of a cluster: nothing was submitted there" in capsys.readouterr().err
