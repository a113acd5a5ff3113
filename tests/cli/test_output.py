"""Tables, JSON lines and errors on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runs import (
    copied,
)

from difflab.cli.output import show

ROOT = Path(__file__).parents[2]


def test_names_with_brackets_are_printed_as_they_are(finished, call, tmp_path):
    odd = copied(finished, tmp_path / "a[bold]b[" / "c]")
    code, out, _ = call("status", odd)
    assert code == 0 and "".join(str(odd).split()) in "".join(out.split())


@pytest.mark.parametrize(
    ("env", "styled", "coloured"),
    [
        ({}, False, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)
def test_tables_have_colours_only_where_they_are_wanted(env, styled, coloured, monkeypatch, capsys, tmp_path):
    from rich.table import Table
    from rich.text import Text

    for key in ("FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    table = Table("head", header_style="bold")
    table.add_row(Text("cell", style="red"))
    show(table)
    out = capsys.readouterr().out
    assert ("\x1b[1m" in out) == styled and ("\x1b[31m" in out) == coloured and "cell" in out
