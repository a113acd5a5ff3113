"""How commands print: results to stdout, progress and notes to stderr."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from rich.console import Console

from difflab.core.text import plain


def problem(text: str) -> int:
    """Print an error that the user can mend as one line on stderr; returns the exit code 2."""
    print(f"difflab: error: {plain(' '.join(text.split()))}", file=sys.stderr)
    return 2


def is_main_process() -> bool:
    """False in the other processes that `accelerate launch` starts; they print nothing."""
    return int(os.environ.get("RANK", "0")) == 0


def show(renderable: Any) -> None:
    """Print a table of rich through Python's own stdout: rich would end with exit code 1 when the reader has
    gone.
    """
    console = Console()
    with console.capture() as text:
        console.print(renderable, crop=False)
    print(text.get(), end="")


def note(lines: Iterable[str]) -> None:
    """Print lines on stderr, each once."""
    for line in dict.fromkeys(lines):
        print(line, file=sys.stderr)


def print_rows(rows: Iterable[dict[str, Any]]) -> None:
    """Print rows as JSON lines."""
    for row in rows:
        print(json.dumps(row))


def quiet_libraries() -> None:
    """Switch off warnings of libraries about optional parts that are not used here; they would hide the
    progress.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
