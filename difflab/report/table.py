"""The table that a run ends with: generation by measure."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from difflab.run import Run


def table(run: Run, width: int = 120) -> Table:
    """A rich table: one row per generation, one column per measure, the floor on top.

    The half width of the 95% interval stands behind each value where `width` characters leave room for it; it is in
    metrics.jsonl in any case.
    """
    rows = run.rows()
    columns = list(dict.fromkeys((r["metric"], r["extractor"]) for r in rows if r["value"] is not None and r["metric"] != "flagged_share"))
    several = len({extractor for _, extractor in columns}) > 1
    heads = [metric.replace("_", "\n") + (f"\n({extractor})" if several else "") for metric, extractor in columns]
    by = {(r["generation"], r["metric"], r["extractor"]): r for r in rows}
    first = run.generations[0] if run.generations else 0
    floors = [number(by.get((first, *column), {}).get("floor")) for column in columns]

    def body(intervals: bool) -> list[list[str]]:
        return [[str(t), *[cell(by.get((t, *column)), intervals) for column in columns]] for t in run.generations]

    def needed(lines: list[list[str]]) -> int:
        cells = [["gen.", *(max(h.split("\n"), key=len) for h in heads)], ["floor", *floors], *lines]
        return sum(max(len(line[c]) for line in cells) + 2 for c in range(len(columns) + 1))

    lines = body(True)
    if needed(lines) > width:
        lines = body(False)
    out = Table(title=f"{run.config.name}: recipe {run.recipe}", title_style="bold", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for head in ("gen.", *heads):
        out.add_column(head, justify="right", no_wrap=needed(lines) <= width, vertical="bottom")
    out.add_row("floor", *floors, style="dim")
    for line in lines:
        out.add_row(*line)
    return out


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
