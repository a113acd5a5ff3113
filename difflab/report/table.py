"""The table that a run ends with: generation by measure."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from difflab.measure import left_out
from difflab.run import Run


def table(run: Run, width: int = 120, rows: list[dict[str, Any]] | None = None) -> Group:
    """One row per generation, one column per measure, the floor on top; as few tables below each other as `width` asks for.

    The half width of the 95% interval stands behind each value where that costs no further table; it is in
    metrics.jsonl in any case. A number is never cut. `rows`: to show instead of all that the run has.
    """
    rows = run.rows() if rows is None else rows
    columns = list(dict.fromkeys((r["metric"], r["extractor"]) for r in rows if r["value"] is not None and r["metric"] != "flagged_share"))
    several = len({extractor for _, extractor in columns}) > 1
    heads = [metric.replace("_", "\n") + (f"\n({extractor})" if several else "") for metric, extractor in columns]
    by = {(r["generation"], r["metric"], r["extractor"]): r for r in rows}
    generations = run.generations
    floors = [number(by.get((generations[0], *column), {}).get("floor")) if generations else "-" for column in columns]

    def part(chosen: list[int], intervals: bool) -> Table:
        out = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
        for head in ("gen.", *(heads[i] for i in chosen)):
            out.add_column(Text(head), justify="right", no_wrap=True, vertical="bottom")
        out.add_row("floor", *(floors[i] for i in chosen), style="dim")
        for t in generations:
            out.add_row(str(t), *(cell(by.get((t, *columns[i])), intervals) for i in chosen))
        return out

    def parts(intervals: bool) -> list[Table]:
        """Columns go into the first table while they fit, then into the next."""
        groups: list[list[int]] = [[]]
        for i in range(len(columns)):
            if groups[-1] and measured(part([*groups[-1], i], intervals)) > width:
                groups.append([])
            groups[-1].append(i)
        return [part(chosen, intervals) for chosen in groups]

    short, long = parts(False), parts(True)
    roomy = len(long) <= len(short) and all(measured(one) <= width for one in long)
    title = Text(f" {run.config.name}: recipe {run.recipe}", style="bold", no_wrap=True, overflow="ellipsis")
    return Group(title, *(long if roomy else short))


def comparison(rows: list[dict[str, Any]]) -> Table:
    """One row per measure: value, 95% interval, floor, n, and which value is best. For `difflab compare`."""
    from difflab.metrics import METRICS

    out = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for head in ("measure", "on", "value", "95% interval", "floor", "n", "better"):
        out.add_column(head, justify="left" if head in ("measure", "on", "better") else "right", no_wrap=True)
    for row in rows:
        if row["value"] is not None:
            between = "" if row["ci_low"] is None else f"{number(row['ci_low'])} to {number(row['ci_high'])}"
            better = METRICS["fd" if row["metric"] == "fid" else row["metric"]].better
            out.add_row(row["metric"], row["extractor"], number(row["value"]), between, number(row["floor"]), str(row["n"]), better)
    return out


MARKS = {"present": "yes", "absent": "no", "cannot tell": "?"}


def diagnosis(result: Any) -> Group:
    """Generations by definitions, then the verdict of the last generation in words with its evidence. For `difflab diagnose`."""
    out = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    definitions = list(result.findings[0].profile)
    for head in ("gen.", *(name.split()[0] for name in definitions), "diagnosis"):
        out.add_column(head, justify="left" if head == "diagnosis" else "right", no_wrap=head != "diagnosis")
    for finding in result.findings:
        marks = [Text(MARKS[finding.profile[name]], style="bold" if finding.profile[name] == "present" else "dim") for name in definitions]
        out.add_row(str(finding.generation), *marks, Text(in_words(finding)))
    legend = Text("columns: " + "; ".join(definitions), style="dim")
    return Group(out, legend, Text(""), Text("\n".join(_story(result))))


def in_words(finding: Any) -> str:
    """'late collapse, and blurred': the stage, what it is instead, and the looks."""
    stage = f"{finding.stage} collapse" if finding.stage in ("early", "late", "catastrophic") else ""
    words = [word for word in (stage, *finding.instead, *finding.looks) if word]
    nothing = "nothing lost" if finding.stage == "none" else "nothing seen at this n"
    return ", ".join(words) or nothing


def _story(result: Any) -> list[str]:
    last = result.findings[-1]
    lines = [f"generation {last.generation} (n = {last.n}): {in_words(last)}"]
    lines += [f"  {line}" for line in last.evidence()]
    if last.gone:
        lines.append(f"  classes that no sample was asked for: {', '.join(last.gone[:8])}")
    if result.first_alarm:
        lines.append(f"first alarm: generation {result.first_alarm[0]}, by {', '.join(result.first_alarm[1])}")
    lines.append(f"what could help: {last.advice}")
    lines += [f"{reason}: {', '.join(names)}" for reason, names in result.unknown.items()]
    lines += [f"left out: {line}" for line in left_out(last.left_out)]
    if len(result.findings) == 1:
        lines.append("one generation alone: this says how it differs from real images, not whether a loop made it so; give generation 0 as well")
    return lines


def measured(part: Table) -> int:
    """Characters that a table takes when nothing limits it."""
    return Console(width=10_000).measure(part).maximum


def cell(row: dict[str, Any] | None, intervals: bool = True) -> str:
    """'0.412 ±0.03', the half width of the 95% interval behind the value."""
    if row is None or row["value"] is None:
        return "-"
    text = number(row["value"])
    if intervals and row["ci_low"] is not None:
        text += f" ±{number((row['ci_high'] - row['ci_low']) / 2, 1)}"
    return text


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, without exponents for the sizes that occur here."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    return text if "e" not in text else f"{value:.1e}" if abs(value) < 1e-3 else f"{value:,.0f}"


VERDICTS = {"higher": "*", "lower": "*", "not": "=", "cannot": "?"}
"""Marks in a table of arms, by the first word of the verdict."""


def arms(rows: list[dict[str, Any]], width: int = 120) -> Group:
    """Arms by measures, one table per generation: mean over seeds with half its 95% interval, and a mark for the verdict against the first arm.

    Arms without a value have a dash; how many seeds each has is a column where that differs. For `compare-runs`.
    """
    names = list(dict.fromkeys(row["arm"] for row in rows))
    seeds = {name: max(row["seeds"] for row in rows if row["arm"] == name) for name in names}
    based, counted = seeds[names[0]] > 0, len(set(seeds.values())) > 1
    parts: list[Any] = []
    for t in dict.fromkeys(row["generation"] for row in rows):
        own = [row for row in rows if row["generation"] == t]
        columns = list(dict.fromkeys((row["metric"], row["extractor"]) for row in own))
        several = len({extractor for _, extractor in columns if extractor not in ("none", "training")}) > 1
        by = {(row["arm"], row["metric"], row["extractor"]): row for row in own}

        def part(chosen: list[tuple[str, str]], t: int = t, by: Any = by, several: bool = several) -> Table:
            out = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), title=f"generation {t}", title_justify="left")
            out.add_column("arm")
            if counted:
                out.add_column("seeds", justify="right")
            for metric, extractor in chosen:
                out.add_column(Text(metric.replace("_", "\n") + (f"\n({extractor})" if several else "")), justify="right", no_wrap=True)
            floors = [next((by[name, *c]["floor"] for name in names if by[name, *c]["floor"] is not None), None) for c in chosen]
            out.add_row("floor", *[""] * counted, *(number(floor) + "  " for floor in floors), style="dim")
            for name in names:
                out.add_row(Text(name), *[str(seeds[name])] * counted, *(_arm_cell(by[name, *c], based) for c in chosen))
            return out

        group: list[tuple[str, str]] = []
        for column in columns:
            if group and measured(part([*group, column])) > width:
                parts.append(part(group))
                group = []
            group.append(column)
        parts.append(part(group))
    note = ["mean over seeds ± half its 95% interval" if max(seeds.values()) > 1 else "one seed: no interval"]
    known = {VERDICTS.get(row["verdict"].split()[0]) for row in rows if based and row["value"] is not None}
    meant = {"*": f"higher or lower than {names[0]}", "=": "not distinguishable", "?": "cannot tell (fewer than two seeds in common)"}
    note += [", ".join(f"{mark} {meaning}" for mark, meaning in meant.items() if mark in known)] if known - {None} else []
    return Group(*parts, Text("; ".join(note), style="dim"))


def _arm_cell(row: dict[str, Any], marked: bool) -> str:
    if row["value"] is None:
        return "-  "
    spread = "" if row["ci_low"] is None else f" ±{number((row['ci_high'] - row['ci_low']) / 2, 1)}"
    return number(row["value"]) + spread + " " + (VERDICTS.get(row["verdict"].split()[0], " ") if marked else " ")
