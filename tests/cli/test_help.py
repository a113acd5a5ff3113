"""What the commands say about themselves, about a slip of the pen, and how they print: help, JSON, colours."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from difflab.cli import main as cli
from difflab.cli.main import main, parser

ROOT = Path(__file__).parents[2]
CODES = ("0    fine", "1    something was found", "2    a problem that you can mend", "130  interrupted")


@pytest.fixture
def said(capsys) -> Any:
    """A command that argparse ends: (exit code, stdout, stderr)."""

    def call(*argv: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(argv))
        return stop.value.code, *capsys.readouterr()

    return call


def commands() -> dict[str, argparse.ArgumentParser]:
    return next(
        action.choices for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
    )  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------------ help
def test_help_names_every_command_and_the_exit_codes(said):
    code, out, err = said("--help")
    assert (code, err) == (0, "") and all(line in out for line in CODES)
    assert [name for name in commands() if not re.search(rf"\b{name}\b", out)] == []
    lines = out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    assert said_alone() == out


def said_alone() -> str:
    """What `difflab` without a command prints."""
    done = subprocess.run([sys.executable, "-m", "difflab"], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_front_page_has_the_five_things_with_an_example_each(said):
    front = said_alone()
    for command in (
        "run digits",
        "compare real/ generated/",
        "diagnose runs/digits",
        "sweep regimes",
        "report runs/digits",
    ):
        assert f"difflab {command}" in front
        cli.parse(command.split())


def test_every_command_has_examples_that_its_parser_takes(said):
    examples_of = parser().examples
    assert list(examples_of) == list(commands())
    for name in commands():
        code, out, _ = said(name, "--help")
        assert code == 0 and "examples:" in out
        for example in examples_of[name]:
            assert example in out
            words = shlex.split(example.split(" > ")[0], comments=True)
            words = words[words.index("difflab") + 1 :]
            assert words[0] == name
            cli.parse(words)


def test_files_of_the_examples_exist():
    for example in [line for lines in parser().examples.values() for line in lines]:
        for path in re.findall(r"configs/[\w./-]+\.yaml", example):
            assert (ROOT / path).is_file(), path
    assert (ROOT / "configs" / "claims" / "fresh-limit.yaml").is_file()


def test_commands_that_print_results_have_json():
    without = [
        name
        for name, command in commands().items()
        if not any("--json" in action.option_strings for action in command._actions)
    ]
    assert without == ["schema", "completion"]  # JSON already; a script


# -------------------------------------------------------------------------------------------- slips of the pen
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["polices"], "there is no command 'polices'; did you mean policies?; see difflab --help"),
        (["compareruns"], "did you mean compare-runs?"),
        (["xyz"], "there is no command 'xyz'; see difflab --help"),
        (
            ["run", "x.yaml", "--outt", "y"],
            "unrecognized arguments: --outt y; did you mean --out?; see difflab run --help",
        ),
        (["status"], "the following arguments are required: RUN; see difflab status --help"),
        (
            ["export", "x", "--generation", "y", "--to", "z"],
            "argument --generation: invalid int value: 'y'; see difflab export --help",
        ),
        (["completion", "fish"], "invalid choice: 'fish'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_slip_is_one_line_that_says_what_to_type(said, argv, words):
    code, out, err = said(*argv)
    assert code == 2 and out == "" and words in err
    assert err.startswith("difflab: error: ") and err.count("\n") == 1 and "usage" not in err


def test_options_of_doctor_may_stand_before_its_configs():
    args = cli.parse(["doctor", "a.yaml", "--json", "b.yaml"])
    assert args.json and [str(path) for path in args.presets] == ["a.yaml", "b.yaml"]


# ------------------------------------------------------------------------------------------- JSON and colours


def test_errors_that_a_config_causes_say_what_to_type(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(yaml.safe_dump({"modl": {"family": "memoriser"}}))
    for argv, words in {
        ("run", "c.yaml"): "did you mean 'model'?",
        ("status", "runs/none"): "start one with: difflab run digits",
        ("policies", "gard"): "did you mean 'guard'?",
        ("compare-runs", "nothing"): "nothing",
        ("sweep", "nothing.yaml"): "there is no config nothing.yaml",
    }.items():
        assert main(list(argv)) == 2
        out, err = capsys.readouterr()
        assert out == "" and words in err and err.count("\n") == 1
