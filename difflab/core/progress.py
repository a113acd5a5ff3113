"""Progress of a run: a bar with stage, speed and time left on a terminal, plain lines elsewhere.

Only the main process prints, and only to stderr: stdout is for results.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

EVERY = 5.0  # seconds between plain lines
NETWORK = ["train", "sample"]  # how fast the network is decides how long these take, and nothing else
SURE = 3.0  # seconds from which on a speed says something about the machine


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
        weights: expected seconds per (generation, stage), from which the time left of the whole run is
            guessed; the guess is corrected by the speed seen so far, that of a stage's own kind once it has
            been seen for SURE seconds.
    """

    def __init__(self, quiet: bool = False, weights: dict[tuple[int, str], float] | None = None):
        self.quiet, self.weights = quiet, weights or {}
        self.console = Console(stderr=True)
        self.terminal = self.console.is_terminal and not quiet
        self.generations = max((t for t, _ in self.weights), default=0)
        self.seen: dict[str, tuple[float, float]] = {}  # by kind of stage: seconds spent, seconds expected
        self.lab: int | None = (
            None  # of an ecosystem, the one that is at work; part of the stage's name in `weights`
        )

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def skip(self, generation: int, stage: str) -> None:
        """A stage that an earlier call has already done."""
        self.weights.pop((generation, self._named(stage)), None)

    def _named(self, stage: str) -> str:
        return stage if self.lab is None else f"lab {self.lab} {stage}"

    def _more(self, stage: str, spent: float, expected: float) -> tuple[float, float]:
        before = self.seen.get(stage, (0.0, 0.0))
        return before[0] + spent, before[1] + expected

    @contextmanager
    def stage(self, generation: int, stage: str, total: int, unit: str = "images") -> Iterator[Any]:
        """Yield ``advance(n)``.

        On a terminal a bar is drawn while the block runs, and one line stays behind.
        """
        started = last = time.monotonic()
        done = 0
        weight = self.weights.pop((generation, self._named(stage)), 0.0)
        head = f"generation {generation}/{self.generations} {self._named(stage):<7}"
        bar = (
            Progress(
                TextColumn(head),
                BarColumn(30),
                TextColumn("{task.fields[status]}"),
                console=self.console,
                transient=True,
            )
            if self.terminal
            else None
        )
        task = bar.add_task(stage, total=total, status="") if bar else None

        def status() -> str:
            elapsed = time.monotonic() - started
            rate = done / elapsed if elapsed > 0 else 0.0
            left = (total - done) / rate if rate else None
            share = done / total if total else 1.0
            seen = {**self.seen, stage: self._more(stage, elapsed, weight * share)}
            rest = sum(_pace(seen, of) * expected for (_, of), expected in self.weights.items())
            rest += _pace(seen, stage) * weight * (1 - share) if left is None else left
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
        self.seen[stage] = self._more(stage, elapsed, weight)
        if stage in ("train", "sample") and total:
            self.say(f"{head} {total:,} {unit} in {clock(elapsed)} ({total / max(elapsed, 1e-9):,.0f}/s)")


def _pace(seen: dict[str, tuple[float, float]], stage: str) -> float:
    """Seconds spent per second expected: of this kind of stage; while it is new, of training and sampling for
    one another, or of whatever was seen; else 1.
    """
    kind = stage.rpartition(" ")[2]  # 'lab 1 train' is a train
    for kinds in ([kind], NETWORK, list(seen)) if kind in NETWORK else ([kind],):
        spent, expected = (sum(seen.get(k, (0.0, 0.0))[i] for k in kinds) for i in (0, 1))
        if spent > SURE and expected:
            return spent / expected
    return 1.0
