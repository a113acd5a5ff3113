"""The wheel: built, installed into a folder of its own, and used from an empty folder outside of the
checkout.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PARTS = ("difflab", "configs", "pyproject.toml", "README.md", "LICENSE")
"""What a wheel is built from."""
BUDGET = [
    "model={family: memoriser}",
    "generations=1",
    "sample={count: 40}",
    "data.limit=200",
    "data.train_size=100",
    "measure={metrics: [recall, fd], resamples: 20}",
]
TINY = {
    "model": {"family": "memoriser"},
    "generations": 1,
    "sample": {"count": 40},
    "data.limit": 200,
    "data.train_size": 100,
    "measure": {"metrics": ["recall"], "resamples": 0},
}
MANY = """
import contextlib, io, json, sys
from difflab.cli.main import main
for argv in json.loads(sys.stdin.read()):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""
"""Runs several commands in one process: importing everything takes seconds."""
BASES = """
import json, pathlib
from difflab.config import load, presets
from difflab.studies.claims import read_claims
from difflab.studies.sweep import Sweep, jobs
home = pathlib.Path(presets.__file__).parents[1] / "configs"
counts = {}
for path in sorted((home / "sweeps").glob("*.yaml")):
    counts[path.stem] = len(jobs(load(path, None, Sweep), path.parent, pathlib.Path("out")))
for name, claim in read_claims(home / "claims").items():
    if claim.sweep:
        counts[name] = len(jobs(claim.sweep, home / "claims", pathlib.Path("out")))
print(json.dumps(counts))
"""
"""Counts the runs of every sweep and claim that is installed, for which each base config has to be read."""


def process(
    *argv: Any, cwd: Path, path: Path | None = None, **kwargs: Any
) -> subprocess.CompletedProcess[str]:
    """A command in `cwd`; it imports difflab from `path`."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    env.pop("PYTHONPATH", None)
    if path:
        env["PYTHONPATH"] = str(path)
    words = [str(word) for word in argv]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, **kwargs)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel, built from a copy of the tree so that nothing of an earlier build gets in."""
    pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    built = process(sys.executable, "-m", "pip", "wheel", *options, "-w", "dist", ".", cwd=copy)
    assert built.returncode == 0, built.stderr
    (path,) = (copy / "dist").glob("difflab-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with difflab in it, as pip installs it, and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    options = ("--no-deps", "--no-index", "--quiet", "--target", target)
    done = process(sys.executable, "-m", "pip", "install", *options, wheel, cwd=target)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    """The folder in which the commands run."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def call(installed, empty) -> Any:
    """Commands of the installed difflab, one after the other: (exit code, stdout, stderr) of each."""

    def run(*commands: list[Any]) -> list[tuple[int, str, str]]:
        text = json.dumps([[str(word) for word in command] for command in commands])
        done = process(sys.executable, "-c", MANY, cwd=empty, path=installed, input=text)
        assert done.returncode == 0, done.stderr
        return [tuple(json.loads(line)) for line in done.stdout.splitlines()]

    return run


def test_the_wheel_holds_assets_and_presets_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    outside = {name for name in names if not name.startswith("difflab/")}
    assert all(".dist-info/" in name for name in outside)
    assert not [
        name for name in names if re.search(r"(^|/)(tests?|benchmarks|docs|notebooks|samples)/", name)
    ]
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*") if path.is_file()}
    assert {f"difflab/{name}" for name in configs} == {
        name for name in names if name.startswith("difflab/configs/")
    }
    assets = ROOT / "difflab" / "assets"
    files = [path for path in assets.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in files} <= set(names)
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "difflab").rglob("*.py")}
    assert modules <= set(names) and "difflab/py.typed" in names


def test_one_place_says_the_version(wheel, installed, empty):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert wheel.name.startswith(f"difflab-{project['version']}-")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == project["version"]
    assert re.search(rf"^## \[{re.escape(project['version'])}\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert version("difflab") == project["version"], "install the checkout again: pip install --editable ."
    done = process(installed / "bin" / "difflab", "--version", cwd=empty, path=installed)
    assert done.stdout == f"difflab {project['version']}\n", done.stderr
    mentions = []
    for path in (ROOT / "difflab").rglob("*.py"):
        if f'"{project["version"]}"' in path.read_text(encoding="utf-8"):
            mentions.append(path)
    assert mentions == []


def test_a_preset_runs_in_an_empty_folder(installed, empty):
    done = process(installed / "bin" / "difflab", "run", "digits", *BUDGET, cwd=empty, path=installed)
    assert done.returncode == 0, done.stderr
    run = empty / "runs" / "digits"
    assert {"report.html", "metrics.jsonl", "run.yaml"} <= {path.name for path in run.iterdir()}
    record = yaml.safe_load((run / "run.yaml").read_text())
    assert record["versions"]["difflab"] == version("difflab")
    assert "next:" in done.stdout and "runs/digits/report.html" in done.stdout
    assert str(ROOT) not in done.stdout + done.stderr + (run / "run.yaml").read_text()


def test_presets_are_listed_shown_and_run_as_copies(call, installed, empty):
    listed, shown, sweep, grouped = call(
        ["presets", "--json"],
        ["presets", "show", "digits"],
        ["presets", "show", "sweeps/regimes"],
        ["presets"],
    )
    rows = [json.loads(line) for line in listed[1].splitlines()]
    assert all(Path(row["file"]).is_relative_to(installed / "difflab" / "configs") for row in rows)
    names = {row["preset"] for row in rows}
    assert {
        "digits",
        "emoji",
        "papers/mad-fs",
        "sweeps/regimes",
        "claims/fresh-limit",
        "assets/tiny-sd",
    } <= names
    for name in names:
        assert re.search(rf"^  {name} +\S", grouped[1], re.M), name
    assert shown == (0, (ROOT / "configs" / "digits.yaml").read_text(), "")
    folder = empty / "elsewhere"
    folder.mkdir()
    (folder / "mine.yaml").write_text(shown[1])
    (folder / "arms.yaml").write_text(sweep[1])
    arms = ["seeds=1", "arms={replace: {}, all: {regime.name: accumulate}}", f"overrides={json.dumps(TINY)}"]
    copied, swept = call(
        ["run", "elsewhere/mine.yaml", *BUDGET, "--out", "mine"],
        ["sweep", "elsewhere/arms.yaml", *arms, "--out", "arms", "--workers", 1, "--json"],
    )
    assert copied[0] == 0, copied
    assert swept[0] == 0, swept
    records = [json.loads(line) for line in swept[1].splitlines()]
    assert [record["error"] for record in records] == [None, None]


def test_every_base_of_a_sweep_or_a_claim_is_installed(installed, empty):
    done = process(sys.executable, "-c", BASES, cwd=empty, path=installed)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert {"regimes", "policies", "emoji", "fresh-limit"} <= counts.keys() and min(counts.values()) > 0


def test_commands_find_presets_by_name(call, installed):
    claim, plan, pretrain, misspelt, doctor, completion = call(
        ["claims", "accumulate-with-bia"],
        ["plan", "papers/mad-fs", "data.source=digits", *BUDGET, "regime={name: replace}", "--json"],
        ["pretrain", "tiny-sd", "nonsense=1"],
        ["run", "digitss"],
        ["doctor", "emoji", "--json"],
        ["completion", "bash"],
    )
    assert claim[0] == 2 and "accumulate-with-bias" in claim[2] and "fresh-limit" in claim[2], claim
    assert plan[0] == 0 and {"stage", "seconds"} <= json.loads(plan[1].splitlines()[0]).keys(), plan
    assert pretrain[0] == 2 and "nonsense" in pretrain[2]
    assert misspelt[0] == 2 and misspelt[2].endswith("there is no config digitss; did you mean digits?\n")
    rows = [json.loads(line) for line in doctor[1].splitlines()]
    settings = {row["name"]: row["value"] for row in rows if row["part"] == "setting"}
    assert settings["difflab"] == version("difflab")
    assert Path(settings["difflab is in"]) == installed / "difflab"
    presets = [row for row in rows if row["part"] == "preset"]
    assert (
        len(presets) == 1 and presets[0]["runs"] and presets[0]["path"].endswith("difflab/configs/emoji.yaml")
    )
    assert "papers/mad-fs" in completion[1] and "fresh-limit" in completion[1]
