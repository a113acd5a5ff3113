"""A script that completes commands, options, paths and names in a shell, made by shtab from the parser itself.

The names of measures, policies, laws and claims are those of the moment when the script is made, so that completing costs nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from difflab.config import presets

FOLDERS = ("dir", "runs", "out", "to", "folder", "earlier")
FILES = {"config": ("*.yaml", "*.yml"), "presets": ("*.yaml", "*.yml"), "plot": ("*.png",), "page": ("*.md",)}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script of `shell`, one of bash, zsh and tcsh, for a parser with subcommands."""
    import shtab

    named = words_of()
    for command, action in actions(parser):
        if (command, action.dest) in named:
            action.complete = words(action.dest, named[command, action.dest])  # type: ignore[attr-defined]
        elif action.dest in FILES:
            action.complete = shtab.glob(*FILES[action.dest])  # type: ignore[attr-defined]
        elif action.dest in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def actions(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Every argument of every subcommand, with the command's name."""
    for commands in [
        action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    ]:
        for name, command in commands.items():
            yield from ((name, action) for action in command._actions)


def words_of() -> dict[tuple[str, str], list[str]]:
    """The words that an argument of a command takes, by (command, argument)."""
    from difflab.features.registry import SPECS
    from difflab.metrics import METRICS
    from difflab.policies import known
    from difflab.studies.laws import LAWS

    measures, extractors = sorted(METRICS), [*SPECS, "open_clip:tiny-clip"]
    return {
        ("policies", "name"): sorted(known()),
        ("theory", "laws"): list(LAWS),
        ("claims", "names"): sorted(path.stem for path in (presets.HOME / "claims").glob("*.yaml")),
        ("compare", "metrics"): measures,
        ("compare-runs", "metrics"): measures,
        ("calibrate", "measure"): measures,
        ("compare", "extractors"): extractors,
        ("diagnose", "extractors"): extractors,
        ("calibrate", "extractor"): extractors,
    }


def words(name: str, known: Iterable[str]) -> Any:
    """What shtab wants for an argument that is one of `known`."""
    listed = " ".join(known)
    function = f"_difflab_{name}"
    plain = f"({listed.replace(':', chr(92) + ':')})"  # a colon ends the list in zsh
    return {
        "bash": function,
        "zsh": plain,
        "tcsh": f"({listed})",
        "preamble": {"bash": f"{function}() {{\n  compgen -W '{listed}' -- $1\n}}"},
    }
