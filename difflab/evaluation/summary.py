"""What a command says at its end: the verdict, the measures that changed most, where to look, and what to
type next.

A run, a comparison, a diagnosis and a sweep all end with a `Summary`. The command line prints it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INTERNALS = "training"
"""The extractor of rows about the training itself, which are not ranked."""


@dataclass(frozen=True)
class Change:
    """How one measure changed.

    Attributes:
        first: the value in generation 0, or of the arm that others are compared with; None = `last` is
            compared with the floor.
        last: the value in the last generation, or of the arm.
        floor: the value between two sets of real images.
        ci_low, ci_high: 95% interval of `last`.
        n: images, chains or seeds.
        noise: 95% half width of the change, or |floor| where there is no interval; None = unknown.
        arm, lab: of a sweep and of an ecosystem.
    """

    metric: str
    extractor: str
    first: float | None
    last: float
    floor: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    noise: float | None
    arm: str = ""
    lab: int = 0

    @property
    def reference(self) -> float | None:
        """What `last` is compared with: `first`, else the floor."""
        return self.floor if self.first is None else self.first

    @property
    def size(self) -> float:
        """|last - reference| in units of the noise; 0 if one of them is unknown."""
        if self.reference is None or self.noise is None or self.last == self.reference:
            return 0.0
        return abs(self.last - self.reference) / self.noise if self.noise else math.inf

    @property
    def clear(self) -> bool:
        """Whether the change is larger than its noise."""
        return self.size > 1

    def __str__(self) -> str:
        """Such as 'recall (pixels): 0.91 -> 0.32 [0.28, 0.36], floor 0.95, n = 500'."""
        name = f"{self.arm}: {self.metric}" if self.arm else self.metric
        start = "" if self.first is None else f"{self.first:.3g} -> "
        interval = "" if self.ci_low is None else f" [{self.ci_low:.3g}, {self.ci_high:.3g}]"
        floor = "no floor" if self.floor is None else f"floor {self.floor:.3g}"
        return f"{name} ({self.extractor}): {start}{self.last:.3g}{interval}, {floor}, n = {self.n}"


@dataclass(frozen=True)
class Summary:
    """The end of a command.

    Attributes:
        verdict: one or more sentences.
        changes: the measures that changed most, the clearest first.
        look_at: paths of files.
        next_commands: what to type next.
        advice: what could help; '' = nothing to say.
    """

    verdict: str
    changes: list[Change] = field(default_factory=list)
    look_at: list[str] = field(default_factory=list)
    next_commands: list[str] = field(default_factory=list)
    advice: str = ""


def changes_of(rows: Iterable[Mapping[str, Any]]) -> list[Change]:
    """The change of every measure from generation 0 to the last generation, from rows of metrics.jsonl.

    If a measure has one generation only, it is compared with its floor. Rows without a value and rows about
    the training are left out.
    """
    series: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["value"] is not None and row["extractor"] != INTERNALS:
            series.setdefault((row["metric"], row["extractor"], row.get("lab", 0)), []).append(row)
    return [_change(sorted(of_measure, key=lambda row: row["generation"])) for of_measure in series.values()]


def _change(rows: Sequence[Mapping[str, Any]]) -> Change:
    first, last = rows[0], rows[-1]
    several = last["generation"] > first["generation"]
    noise = half_width(last)
    if noise is not None and several:
        noise = math.hypot(noise, half_width(first) or 0.0)
    if noise is None and last["floor"]:
        noise = abs(last["floor"])
    return Change(
        last["metric"],
        last["extractor"],
        first["value"] if several else None,
        last["value"],
        last["floor"],
        last["ci_low"],
        last["ci_high"],
        last["n"],
        noise,
        lab=last.get("lab", 0),
    )


def half_width(row: Mapping[str, Any]) -> float | None:
    """Half the width of a row's 95% interval; None = it has none."""
    if row["ci_low"] is None:
        return None
    return float(row["ci_high"] - row["ci_low"]) / 2


def changes_most(rows: Iterable[Mapping[str, Any]], count: int = 5) -> list[Change]:
    """The measures that changed most, see `largest` and `changes_of`.

    >>> shared = {"metric": "recall", "extractor": "pixels", "floor": 0.9, "n": 100}
    >>> first = shared | {"generation": 0, "value": 0.9, "ci_low": 0.8, "ci_high": 1.0}
    >>> last = shared | {"generation": 3, "value": 0.2, "ci_low": 0.1, "ci_high": 0.3}
    >>> print(*changes_most([first, last]))
    recall (pixels): 0.9 -> 0.2 [0.1, 0.3], floor 0.9, n = 100
    """
    return largest(changes_of(rows), count)


def largest(changes: Iterable[Change], count: int = 5) -> list[Change]:
    """The `count` largest changes in units of their noise.

    Of one measure (and arm) only the largest is kept.
    """
    kept: dict[tuple[str, str], Change] = {}
    for change in sorted(changes, key=lambda change: -change.size):
        kept.setdefault((change.metric, change.arm), change)
    return list(kept.values())[:count]


# ------------------------------------------------------------------------------------------------------ a run
def summary_of_run(run: Any, diagnosis: Mapping[str, Any] | None = None) -> Summary:
    """The end of a run.

    Args:
        run: a Run or an EcosystemRun.
        diagnosis: what `difflab.report.verdict.verdict` returns: words, generation, n, first_alarm and
            advice, or the reason why there is no diagnosis; None = the verdict counts the measures that
            changed.
    """
    rows, advice = run.rows(), ""
    if diagnosis is not None and "words" in diagnosis:
        advice = diagnosis.get("advice", "")
        verdict = sentence(
            diagnosis["words"], diagnosis["generation"], diagnosis["n"], diagnosis.get("first_alarm")
        )
    else:
        last = max((row["generation"] for row in rows), default=0)
        verdict = count_in_words(changes_of(rows), last)
    files = existing(Path(run.path), ("report.html", "strip.png", "curves.png", "metrics.jsonl"))
    return Summary(verdict, changes_most(rows), files, _commands(run), advice)


def _commands(run: Any) -> list[str]:
    """What to type after a run. Of an ecosystem the first lab is diagnosed."""
    name = shlex.quote(str(run.path))
    commands = []
    if not (Path(run.path) / "report.html").exists():
        commands.append(f"difflab report {name}")
    if not run.config.exact:
        commands.append(f"difflab diagnose {shlex.quote(str(run.parts[0].path))}")
    return [*commands, f"difflab status {name} --all"]


def existing(folder: Path, names: Iterable[str]) -> list[str]:
    """The paths of those files that are in the folder."""
    return [str(folder / name) for name in names if (folder / name).exists()]


def sentence(
    words: str, generation: int, n: int, first_alarm: tuple[int, Sequence[str]] | Sequence[Any] | None = None
) -> str:
    """The verdict of a diagnosis.

    >>> sentence("early collapse", 4, 500, (2, ["recall"]))
    'generation 4: early collapse (n = 500); first alarm in generation 2, by recall'
    """
    text = f"generation {generation}: {words} (n = {n})"
    if first_alarm:
        since, measures = first_alarm
        text += f"; first alarm in generation {since}, by {', '.join(measures)}"
    return text


def count_in_words(changes: Sequence[Change], generation: int) -> str:
    """How many measures changed by more than their noise.

    >>> count_in_words([], 3)
    'no measure has a value'
    """
    known = [change for change in changes if change.reference is not None]
    if not known:
        return "no measure has a value"
    clear = sum(change.clear for change in known)
    subject = f"{clear} of {len(known)} measures" if clear else "no measure"
    if known[0].first is None:
        predicate = "differ from real images" if clear else "differs from real images"
    else:
        predicate = f"changed from generation 0 to generation {generation}"
    return f"{subject} {predicate} by more than the noise (n = {known[0].n})"
