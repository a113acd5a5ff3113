"""Show the progress of a run: a bar with stage, speed and remaining time on a terminal, else plain lines.

Only the main process prints. It prints to stderr, because stdout is for results.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

EVERY = 5.0  # seconds between plain lines
NETWORK = ["train", "sample"]  # stages whose time depends only on the speed of the network
SURE = 3.0  # a speed is used for predictions after it was measured for this many seconds


def clock(seconds: float | None) -> str:
    """Format seconds as minutes and seconds: 75 -> '1:15'. None (unknown) -> '-:--'."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Reporter:
    """Shows the progress of the stages of one run.

    Args:
        quiet: print nothing. For ``--json``, and for processes other than the main one.
        weights: expected seconds per (generation, stage). The remaining time of the run is estimated from
            them. The estimate is corrected by the measured speed of finished and running stages.
    """

    def __init__(self, quiet: bool = False, weights: dict[tuple[int, str], float] | None = None):
        self.quiet, self.weights = quiet, weights or {}
        self.console = Console(stderr=True)
        self.terminal = self.console.is_terminal and not quiet
        self.generations = max((t for t, _ in self.weights), default=0)
        self.seen: dict[str, tuple[float, float]] = {}  # stage -> (seconds spent, seconds expected)
        # The current lab of an ecosystem. It is part of the names of stages in `weights`.
        self.lab: int | None = None

    def say(self, text: str) -> None:
        """Print one line, unless the reporter is quiet."""
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def skip(self, generation: int, stage: str) -> None:
        """Remove a stage that an earlier command has finished from the expected time."""
        self.weights.pop((generation, self._named(stage)), None)

    def _named(self, stage: str) -> str:
        return stage if self.lab is None else f"lab {self.lab} {stage}"

    def _more(self, stage: str, spent: float, expected: float) -> tuple[float, float]:
        before = self.seen.get(stage, (0.0, 0.0))
        return before[0] + spent, before[1] + expected

    @contextmanager
    def stage(self, generation: int, stage: str, total: int, unit: str = "images") -> Iterator[Any]:
        """Yield a function ``advance(n)``, which reports that `n` more of `total` units are done.

        On a terminal a bar is drawn while the block runs. Afterwards one line is printed for training and
        sampling.
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
            remaining = (total - done) / rate if rate else None
            share = done / total if total else 1.0
            seen = {**self.seen, stage: self._more(stage, elapsed, weight * share)}
            run = sum(_pace(seen, later) * expected for (_, later), expected in self.weights.items())
            run += _pace(seen, stage) * weight * (1 - share) if remaining is None else remaining
            stage_left, run_left = clock(remaining), clock(run)
            if bar:  # this line is shorter, because the bar and the text must fit into 80 columns
                return f"{done / total:4.0%}  {rate:,.0f} {unit}/s  {stage_left} left  (run {run_left})"
            return f"{done:,}/{total:,} {unit}  {rate:,.0f}/s  {stage_left} left  (run: {run_left} left)"

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
    """The ratio of spent to expected seconds for a stage. 1 if nothing comparable has been measured.

    It is the ratio of the same stage. For a stage in NETWORK that was measured for less than SURE seconds, it
    is the ratio over NETWORK, or else over all stages.
    """
    kind = stage.rpartition(" ")[2]  # 'lab 1 train' -> 'train'
    for kinds in ([kind], NETWORK, list(seen)) if kind in NETWORK else ([kind],):
        spent, expected = (sum(seen.get(k, (0.0, 0.0))[i] for k in kinds) for i in (0, 1))
        if spent > SURE and expected:
            return spent / expected
    return 1.0
