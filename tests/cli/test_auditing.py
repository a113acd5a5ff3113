"""difflab audit: text, JSON, exit codes, wrong arguments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from audited import A1111, write

from difflab.cli.main import main

RANDOM = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = RANDOM.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    root = write(tmp_path / "set", images[:6])
    return write(root, images[6:], "made[red]", A1111)


def test_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "8 images, 0 of which cannot be read" in out
    assert "at least 25.0% declare that they are synthetic" in out
    assert "cannot tell" in out and "does not mean that they are real" in out
    assert "made[red]00000.png" in out


def test_json_and_the_largest_share(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(folder), "--json", "--max-share", "0.25"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["share"]["declared"] == 0.25 and "made" not in json.dumps(content)
    assert main(["audit", str(folder), "--json", "--max-share", "0.2", "--keep-text"]) == 1
    captured = capsys.readouterr()
    assert "at least 25.0%, above --max-share 0.2" in captured.err and "made[red]" in captured.out


def test_a_clean_set_and_a_record(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["audit", str(folder), "--out", str(tmp_path / "record"), "--write", str(tmp_path / "clean")]
    assert main(arguments) == 0
    assert "left_out.csv" in capsys.readouterr().out
    assert (tmp_path / "record" / "audit.json").exists()
    assert len((tmp_path / "clean" / "left_out.csv").read_text().splitlines()) == 3
    assert main(arguments) == 2  # nothing is overwritten
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "does not exist"),
        (["SET", "--max-share", "2"], "not a share from 0 to 1"),
        (["SET", "--max-share", "x"], "not a share from 0 to 1"),
        (["SET", "--leave-out", "probe"], "--leave-out goes with --write"),
        (["SET", "--calibrate", "SET"], "expected 2 arguments"),
        (["SET", "--labels", "nowhere.csv"], "cannot be read"),
        (["SET", "--write", "NEW", "--leave-out", "metadata"], "there is no layer 'metadata'"),
    ],
)
def test_wrong_arguments(
    folder: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"SET": str(folder), "NEW": str(tmp_path / "new")}
    try:
        code = main(["audit", *(words.get(word, word) for word in arguments)])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    assert code == 2
    assert message in capsys.readouterr().err
