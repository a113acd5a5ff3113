"""`difflab ...` in this process: as the real command, but for the seconds that a process takes to import everything."""

from __future__ import annotations

import io
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest

from difflab.cli.main import main


def difflab(*words: Any, columns: int = 120) -> subprocess.CompletedProcess[str]:
    """Exit code, stdout and stderr of one command, on a terminal `columns` wide."""
    out, err, argv = io.StringIO(), io.StringIO(), [str(word) for word in words]
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        try:
            code = main(argv)
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())
