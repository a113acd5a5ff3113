"""What a sweep, or a comparison of runs, says at its end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from difflab.evaluation.summary import INTERNALS, Change, Summary, existing, largest
from difflab.studies.budgets import budgets
from difflab.studies.compare_runs import SAME, UNKNOWN, Arm, compare_runs, unfinished
from difflab.studies.sweep import arms_in


def summary_of_sweep(out: Path) -> Summary:
    """The end of a sweep: each arm against the first one, in the last generation that all runs have.

    Raises ConfigError if the folder holds no sweep, or a sweep without a finished run.
    """
    arms = arms_in(out)
    name = shlex.quote(str(out))
    summary = summary_of_arms(
        arms,
        compare_runs(arms),
        existing(out, ("report.html", "arms.png", "arms-strip.png")),
        [f"difflab compare-runs {name}", f"difflab report {name}"],
    )
    return replace(summary, verdict=f"{summary.verdict}\n{budgets(arms)}")


def summary_of_arms(
    arms: Sequence[Arm],
    rows: Sequence[Mapping[str, Any]],
    look_at: Sequence[str] = (),
    next_commands: Sequence[str] = (),
) -> Summary:
    """The end of a comparison of runs. rows: of `compare_runs`."""
    sentences = [*_sentences(arms, rows), *unfinished(arms)]
    changes = _changes(rows)
    return Summary("\n".join(sentences), largest(changes), list(look_at), list(next_commands))


def _sentences(arms: Sequence[Arm], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many measures of each arm differ from those of the first arm."""
    if not rows:
        return []
    first, generation = arms[0].name, max(row["generation"] for row in rows)
    if not arms[0].runs:
        return []
    if len(arms) == 1:
        return [f"{first} is the only arm: there is nothing to compare it with"]
    sentences = []
    for arm in arms[1:]:
        if not arm.runs:
            continue
        verdicts = [
            row["verdict"] for row in rows if row["arm"] == arm.name and row["generation"] == generation
        ]
        sentences.append(f"{arm.name}: {_count(verdicts, first)} in generation {generation}")
    return sentences


def _count(verdicts: Sequence[str], first: str) -> str:
    known = [verdict for verdict in verdicts if verdict != UNKNOWN]
    if not known:
        return (
            f"cannot tell whether it differs from {first} (an interval needs two seeds or more that both "
            "arms have)"
        )
    different = sum(verdict != SAME for verdict in known)
    if not different:
        return f"not distinguishable from {first} in any of {len(known)} measures"
    return f"differs from {first} in {different} of {len(known)} measures"


def _changes(rows: Sequence[Mapping[str, Any]]) -> list[Change]:
    """The measures of each arm against those of the first arm, in the last generation."""
    generation = max((row["generation"] for row in rows), default=0)
    values = {
        (row["metric"], row["extractor"]): row["value"]
        for row in rows
        if row["verdict"] == "baseline" and row["generation"] == generation
    }
    changes = []
    for row in rows:
        first = values.get((row["metric"], row["extractor"]))
        of_arm = row["verdict"] != "baseline" and row["generation"] == generation
        if of_arm and row["value"] is not None and first is not None and row["extractor"] != INTERNALS:
            changes.append(_change(row, first))
    return changes


def _change(row: Mapping[str, Any], first: float) -> Change:
    noise = abs(row["floor"]) if row["floor"] else None
    if row["diff_low"] is not None:
        noise = (row["diff_high"] - row["diff_low"]) / 2
    return Change(
        row["metric"],
        row["extractor"],
        first,
        row["value"],
        row["floor"],
        row["ci_low"],
        row["ci_high"],
        row["seeds"],
        noise,
        arm=row["arm"],
    )
