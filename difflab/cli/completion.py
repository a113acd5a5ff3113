"""A script that completes commands, options, paths and names in a shell, made by shtab from the parser
itself.

The names of presets, measures, policies, laws and claims are written into the script when it is made.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from difflab.config import presets

FOLDERS = ("dir", "runs", "out", "to", "folder", "earlier")
"""Arguments that are folders."""
FILES = {"config": ("*.yaml", "*.yml"), "presets": ("*.yaml", "*.yml"), "plot": ("*.png",), "page": ("*.md",)}
"""Argument -> patterns of its files."""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script of `shell`, one of bash, zsh and tcsh, for a parser with subcommands."""
    import shtab

    names_by_argument = names()
    for command, action in actions(parser):
        complete: Any = None
        listed = names_by_argument.get((command, action.dest))
        if listed is not None:
            function = f"_difflab_{command}_{action.dest}".replace("-", "_")
            complete = one_of(function, listed, FILES.get(action.dest, ()))
        elif action.dest in FILES:
            complete = shtab.glob(*FILES[action.dest])
        elif action.dest in FOLDERS:
            complete = shtab.DIRECTORY
        elif action.type is Path:
            complete = shtab.FILE
        if complete is not None:
            action.complete = complete  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def actions(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Every argument of every subcommand, with the command's name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                for argument in command._actions:
                    yield name, argument


def names() -> dict[tuple[str, str], list[str]]:
    """The names that an argument of a command takes, by (command, argument)."""
    from difflab.features.registry import SPECS
    from difflab.metrics import METRICS
    from difflab.policies import known
    from difflab.studies.laws import LAWS

    measures, extractors = sorted(METRICS), [*SPECS, "open_clip:tiny-clip"]
    listed = {
        ("policies", "name"): sorted(known()),
        ("theory", "laws"): list(LAWS),
        ("claims", "names"): _in_group("claims"),
        ("sweep", "config"): _in_group("sweeps"),
        ("pretrain", "config"): _in_group("assets"),
        ("presets", "what"): ["show", *filter(None, presets.GROUPS), *presets.names()],
        ("calibrate", "measure"): measures,
        ("calibrate", "extractor"): extractors,
    }
    chains = [*_in_group(""), *(f"papers/{name}" for name in _in_group("papers"))]
    for command in ("run", "plan", "calibrate", "tune-sampling"):
        listed[command, "config"] = chains
    listed["doctor", "presets"] = chains
    for argument in (("compare", "metrics"), ("compare-runs", "metrics"), ("measure", "names")):
        listed[argument] = measures
    for command in ("compare", "diagnose", "measure"):
        listed[command, "extractors"] = extractors
    return listed


def _in_group(group: str) -> list[str]:
    """The presets of a group, without its name."""
    parts = [name.rpartition("/") for name in presets.names()]
    return [name for folder, _, name in parts if folder == group]


def one_of(function: str, listed: Sequence[str], patterns: Sequence[str] = ()) -> dict[str, Any]:
    """What shtab wants for an argument that is one of the names `listed`, or a file of one of the patterns.

    function: the name of the shell function to write. tcsh completes only one of the two: the files, if there
    are patterns.
    """
    words = " ".join(listed)
    bash, zsh = f"compgen -W '{words}' -- $1", f"compadd -- {words}"
    if patterns:
        bash += "".join(f"\n  compgen -f -X '!{pattern}' -- $1" for pattern in patterns)
        bash += "\n  compgen -d -- $1"
        zsh += f"\n  _files -g '({'|'.join(patterns)})'"
    return {
        "bash": function,
        "zsh": function,
        "tcsh": f"f:{{{','.join(patterns)}}}" if patterns else f"({words})",
        "preamble": {
            "bash": f"{function}() {{\n  {bash}\n}}",
            "zsh": f"{function}() {{\n  {zsh}\n}}",
        },
    }
