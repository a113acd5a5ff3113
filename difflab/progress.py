"""What a run tells while it works: a bar with stage, speed and time left on a terminal, plain lines elsewhere.

Only the main process speaks, always on stderr, so that stdout holds results alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

EVERY = 5.0  # seconds between plain lines


def clock(seconds: float | None) -> str:
    """75 -> '1:15'; None, not known yet -> '-:--'."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Reporter:
    """Reports the stages of one run.

    Args:
        quiet: say nothing (processes other than the main one; ``--json``).
        weights: expected seconds per (generation, stage), from which the time left of the whole run is guessed; the
            guess is corrected by the speed seen so far.
    """

    def __init__(self, quiet: bool = False, weights: dict[tuple[int, str], float] | None = None):
        self.quiet, self.weights = quiet, weights or {}
        self.console = Console(stderr=True)
        self.terminal = self.console.is_terminal and not quiet
        self.generations = max((t for t, _ in self.weights), default=0)
        self.expected_done = self.spent = 0.0
        self.lab: int | None = None  # of an ecosystem, the one that is at work; part of the stage's name in `weights`

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def skip(self, generation: int, stage: str) -> None:
        """A stage that an earlier call has already done."""
        self.weights.pop((generation, self._named(stage)), None)

    def _named(self, stage: str) -> str:
        return stage if self.lab is None else f"lab {self.lab} {stage}"

    @contextmanager
    def stage(self, generation: int, stage: str, total: int, unit: str = "images") -> Iterator[Any]:
        """Yield ``advance(n)``. On a terminal a bar is drawn while the block runs, and one line stays behind."""
        started = last = time.monotonic()
        done = 0
        weight = self.weights.pop((generation, self._named(stage)), 0.0)
        head = f"generation {generation}/{self.generations} {self._named(stage):<7}"
        bar = (
            Progress(TextColumn(head), BarColumn(30), TextColumn("{task.fields[status]}"), console=self.console, transient=True)
            if self.terminal
            else None
        )
        task = bar.add_task(stage, total=total, status="") if bar else None

        def status() -> str:
            elapsed = time.monotonic() - started
            rate = done / elapsed if elapsed > 0 else 0.0
            left = (total - done) / rate if rate else None
            share = done / total if total else 1.0
            seen, guess = self.spent + elapsed, self.expected_done + weight * share
            # The first seconds say nothing about the machine; until then the estimate stands as it is.
            pace = seen / guess if guess and seen > 3 else 1.0
            rest = pace * sum(self.weights.values()) + (pace * weight * (1 - share) if left is None else left)
            if bar:  # the bar shows the count; the line has to fit into 80 columns
                return f"{done / total:4.0%}  {rate:,.0f} {unit}/s  {clock(left)} left  (run {clock(rest)})"
            return f"{done:,}/{total:,} {unit}  {rate:,.0f}/s  {clock(left)} left  (run: {clock(rest)} left)"

        def advance(n: int) -> None:
            nonlocal done, last
            done = min(total, done + n)
            if bar:
                bar.update(task, completed=done, status=status())  # type: ignore[arg-type]
            elif not self.quiet and time.monotonic() - last > EVERY:
                last = time.monotonic()
                self.say(f"{head} {status()}")

        if bar:
            bar.start()
        try:
            yield advance
        finally:
            if bar:
                bar.stop()
        elapsed = time.monotonic() - started
        self.spent += elapsed
        self.expected_done += weight
        if stage in ("train", "sample") and total:
            self.say(f"{head} {total:,} {unit} in {clock(elapsed)} ({total / max(elapsed, 1e-9):,.0f}/s)")
