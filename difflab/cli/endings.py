"""What a command says at its end: the verdict, what changed most, where to look, what to type next."""

from __future__ import annotations

import shlex
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from difflab.cli.output import show
from difflab.evaluation.summary import Summary, summary_of_run
from difflab.report import live
from difflab.report.blocks import Blocks, Column
from difflab.report.table import budget, changes, comparison, diagnosis, published, remarks, table
from difflab.report.verdict import verdict

WIDTH = 100
"""Characters of a line of text at most, on a wide terminal."""
LEGEND = "±: half the 95% interval; floor: the same measure between two real sets"


def print_summary(summary: Summary, evidence: Sequence[str] = ()) -> None:
    """Print the four parts of a summary, with the evidence below the verdict.

    Parts that are empty are left out.
    """
    for sentence in summary.verdict.splitlines():
        _paragraph(sentence)
    for line in evidence:
        _paragraph(f"  {line}")
    if summary.advice:
        _paragraph(f"what could help: {summary.advice}")
    if summary.changes:
        print()
        show(changes(summary.changes))
        if any(change.floor is not None or change.ci_low is not None for change in summary.changes):
            _paragraph(LEGEND)
    for title, lines in (("look at:", summary.look_at), ("next:", summary.next_commands)):
        for place, line in enumerate(lines):
            print(f"{'' if place else title:10}{line}")


def _paragraph(text: str) -> None:
    """Wrap at word ends; never inside a word, so that a path or a number can be copied."""
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    print(textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def end_of_run(run: Any) -> None:
    """The verdict on a run, or on each lab of an ecosystem.

    Makes the diagnosis where it is missing and puts it into the report.
    """
    diagnoses, new = {}, False
    for part in run.parts:
        if not part.config.exact:
            known = verdict(part, fresh=False)
            diagnoses[part.path] = known or verdict(part)
            new |= known is None and "words" in (diagnoses[part.path] or {})
    if new:
        live.after_generation(run, run.config.generations)
    run.drop_cache()  # the diagnosis decodes samples
    flagged = sum(round(row["value"] * row["n"]) for row in run.rows() if row["metric"] == "flagged_share")
    if flagged:
        print(f"flagged: {flagged} samples of one colour (metric flagged_share)")
    if len(run.parts) == 1:
        print_summary(summary_of_run(run, diagnoses.get(run.path)))
        _count_missing(run.rows(), "difflab status --all")
        return
    for lab, part in enumerate(run.parts):
        print(f"lab {lab}")
        print_summary(summary_of_run(part, diagnoses.get(part.path)))
        print()
    whole = summary_of_run(run)
    print_summary(Summary("", [], whole.look_at, whole.next_commands))


def all_numbers(run: Any) -> None:
    """Every measure of every generation, with the noise floor on top, and what is missing and why."""
    for part in run.parts:
        show(table(part))
    between = [row for row in run.rows() if row["lab"] is None]
    if between:
        show(table(run, rows=between))
    for line in remarks([row for row in run.rows() if row["generation"] == 0]):
        print(line)
    for line in dict.fromkeys(budget(part) for part in run.parts):
        print(line)


def end_of_compare(result: Any, real: Path, generated: Path, everything: bool) -> None:
    """How generated images differ from real ones. everything: print all measures instead of the five
    clearest.
    """
    summary = result.summary(str(real), str(generated))
    if everything:
        print(f"protocol: {result.protocol}")
        show(comparison(result.rows))
        for line in remarks(result.rows):
            print(line)
        return
    sets = shlex.join([str(real), str(generated)])
    commands = [f"difflab compare {sets} --all", *summary.next_commands]
    print_summary(Summary(summary.verdict, summary.changes, summary.look_at, commands, summary.advice))
    print(f"protocol: {result.protocol}")
    if summary.changes:
        _count_missing(result.rows, "--all")
    else:  # the reason is all that there is to say
        for line in remarks(result.rows):
            _paragraph(line)


def end_of_published(result: Any) -> None:
    """The numbers of a published protocol, and why one is missing."""
    print(f"protocol: {result.protocol}")
    if any(row["value"] is not None for row in result.rows):
        show(published(result.rows))
    for line in remarks(result.rows):
        _paragraph(line)


def _count_missing(rows: list[dict[str, Any]], command: str) -> None:
    """Say how many measures have no value, and which command says why."""
    missing = len({(row["metric"], row["extractor"]) for row in rows if row["value"] is None})
    if missing:
        print(f"{missing} {'measure has' if missing == 1 else 'measures have'} no value; {command} says why")


def end_of_diagnose(result: Any, summary: Summary, everything: bool) -> None:
    """The findings, the verdict and what changed most. everything: the evidence of each verdict too."""
    if everything:
        show(diagnosis(result))
        return
    heads = [Column("generation"), Column("diagnosis", "left", text=True)]
    show(Blocks(heads, [[str(finding.generation), finding.words] for finding in result.findings]))
    print_summary(summary, [*result.findings[-1].evidence(), *result.doubts])
