"""The table that a run ends with: generation by measure."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from difflab.run import Run


def table(run: Run) -> Table:
    """A rich table: one row per generation, one column per measure; the floor on top; intervals beside the values."""
    rows = run.rows()
    columns = list(dict.fromkeys((r["metric"], r["extractor"]) for r in rows if r["value"] is not None and r["metric"] != "flagged_share"))
    several = len({extractor for _, extractor in columns}) > 1
    out = Table(title=f"{run.config.name}: recipe {run.recipe}", title_style="bold", header_style="bold", pad_edge=False)
    out.add_column("generation", justify="right", no_wrap=True)
    for metric, extractor in columns:
        out.add_column(metric.replace("_", " ") + (f"\n({extractor})" if several else ""), justify="right")
    by = {(r["generation"], r["metric"], r["extractor"]): r for r in rows}
    first = run.generations[0] if run.generations else 0
    floors = [by.get((first, *column), {}).get("floor") for column in columns]
    out.add_row("floor", *[number(f) for f in floors], style="dim", end_section=True)
    for t in run.generations:
        out.add_row(str(t), *[cell(by.get((t, *column))) for column in columns])
    return out


def cell(row: dict[str, Any] | None) -> str:
    """'0.412 ±0.03', the half width of the 95% interval behind the value."""
    if row is None or row["value"] is None:
        return "-"
    text = number(row["value"])
    if row["ci_low"] is not None:
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
