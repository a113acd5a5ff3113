"""tune-sampling, as a user types it."""

from __future__ import annotations

import json
import sys

import pytest
import tiny
import yaml
from cli_runs import DIGITS, MLP, process

from difflab.cli.main import main

pytestmark = tiny.LIBRARIES


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("tuning") / "digits"
    overrides = [*MLP, "generations=0", "train.images_seen=20000", "sample.scheduler=DDIMScheduler"]
    assert main(["run", str(DIGITS), *overrides, "--out", str(path)]) == 0
    return path


def test_the_command_writes_overrides_that_a_run_takes(digits, tmp_path):
    out = tmp_path / "sampling.yaml"
    words = ["--count", 60, "--steps", 1, 60, "--schedulers", "DDIMScheduler", "--out", out]
    done = process(sys.executable, "-m", "difflab", "tune-sampling", digits, "sample.steps=60", *words)
    assert done.returncode == 0, done.stderr
    assert "DDIMScheduler" in done.stdout and "reference" in done.stdout and "apart" in done.stdout
    assert "Traceback" not in done.stderr and "2 of 2: DDIMScheduler, 60 steps" in done.stderr
    assert yaml.safe_load(out.read_text()) == {"sample.scheduler": "DDIMScheduler", "sample.steps": 60}
    line = next(line for line in done.stdout.splitlines() if line.startswith("use it: difflab "))
    words = line.removeprefix("use it: difflab ").split()
    assert words[0] == "run" and words[2:4] == ["sample.scheduler=DDIMScheduler", "sample.steps=60"]
    assert main(["plan", *words[1:4]]) == 0


def test_rows_are_json_and_the_exit_code_is_1_if_all_are_told_apart(digits, call, tmp_path):
    words = ["--count", 100, "--steps", 1, "--schedulers", "DDIMScheduler", "--out", tmp_path / "none.yaml"]
    code, out, _ = call("tune-sampling", digits, "sample.steps=1", *words, "--json")
    reference, trial = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and trial["apart"] and not trial["recommended"] and reference["role"] == "reference"
    assert trial["passes"] == 1, "no guidance"
    assert not (tmp_path / "none.yaml").exists()
    code, out, _ = call("tune-sampling", digits, "sample.steps=1", *words)
    assert code == 1 and "all samplers are told apart" in out


def test_a_problem_is_one_line(digits, refused, tmp_path):
    assert "has no pretrained base to sample" in refused("tune-sampling", "digits")
    assert "there is no config digitz" in refused("tune-sampling", "digitz")
    assert "only keys of sample.* can be overridden" in refused("tune-sampling", digits, "model.width=64")
    assert "does not denoise" in refused(
        "tune-sampling", digits, "--schedulers", "FlowMatchEulerDiscreteScheduler"
    )
