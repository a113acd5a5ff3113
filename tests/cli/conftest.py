"""Fixtures of the command line: a folder of its own, commands in this process, a finished run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cli_runs import (
    DIGITS,
    MEMORISER,
    picture,
)

from difflab.cli.main import main


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def undrawn(monkeypatch):
    """Runs in this process leave out the curves and the report, which take a second and have tests of their own."""
    from difflab.cli import endings
    from difflab.loop import chain
    from difflab.report import live

    monkeypatch.setattr(chain, "run_chain", partial(chain.run_chain, plots=False))
    monkeypatch.setattr(live, "after_generation", lambda *args: None)
    monkeypatch.setattr(endings, "verdict", lambda run, fresh=True: None)


@pytest.fixture
def call(capsys):
    """Run a command in this process: (exit code, stdout, stderr)."""

    def run(*argv: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(call):
    """Run a command that must be refused; returns the one line of its error."""

    def run(*argv: Any) -> str:
        code, out, err = call(*argv)
        lines = [line for line in err.splitlines() if not line.startswith("generation ")]
        assert code == 2 and out == "" and len(lines) == 1, (code, out, err)
        assert lines[0].startswith("difflab: error: ") and "Traceback" not in err
        return lines[0]

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A complete memoriser run. Tests that change it work on a copy."""
    path = tmp_path_factory.mktemp("cli") / "run"
    assert main(["run", str(DIGITS), *MEMORISER, "--out", str(path)]) == 0
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """An imagefolder of two classes with twelve images each."""
    for name in ("cat", "dog"):
        for i in range(12):
            picture(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"
