"""Runs of small folders, and what they said before their first stage."""

from __future__ import annotations

from pathlib import Path

from pictures import folder

from difflab.config import Config
from difflab.core.progress import Reporter
from difflab.loop.chain import run_chain
from difflab.runs.run import Run


def spoken(config: Config, path: Path) -> tuple[Run, list[str]]:
    """A run, and the lines that its reporter was given before there were samples."""
    lines: list[str] = []

    class Listener(Reporter):
        def say(self, text: str) -> None:
            if not list(path.glob("gen-*/samples")):
                lines.append(text)

    return run_chain(config, path, Listener(quiet=True), plots=False), lines


def folder_of_classes(path: Path, **classes: int) -> str:
    """The source of class folders with so many images each."""
    for seed, (name, count) in enumerate(classes.items()):
        folder(path / name, count, 16, seed)
    return f"imagefolder:{path}"
