"""Small multiples: one plot per measure over the generations, with interval and noise floor, drawn with
matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colour-blind safe (Okabe & Ito 2008)."""
STYLES = (("-", "o"), (":", "s"), ("-.", "^"))
"""Line and marker. A noise floor is dashed."""
COLUMNS = 4
INTERVAL, FLOOR = "95% interval", "floor (real against real)"
LAST = "flagged_share"
"""Flagged images are a check, not a result: their plot is the last one, and is left out where nothing was
flagged.
"""

Line = tuple[str, list[dict[str, Any]]]
"""A label, and rows with generation, metric, extractor, value, ci_low, ci_high and floor."""


def curve_figure(lines: Sequence[Line]) -> Any:
    """A matplotlib figure with one plot per measure and extractor, and in each one line per label."""
    from matplotlib.figure import Figure

    names = plots_of(lines)
    columns = min(COLUMNS, max(1, len(names)))
    rows = max(1, -(-len(names) // columns))
    legend_height = 0.6 + 0.22 * -(-(len(lines) + 2) // (columns + 1))
    width, height = max(4.5, 3.1 * columns), 2.35 * rows + legend_height
    figure = Figure(figsize=(width, height))
    grid = _grid(width, height, rows, columns, legend_height)
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=grid).ravel()
    several = len({extractor for _, extractor in names if extractor != "none"}) > 1
    for axis, (metric, extractor) in zip(axes, names, strict=False):
        for place, (label, points) in enumerate(lines):
            of_plot = [r for r in points if (r["metric"], r["extractor"]) == (metric, extractor)]
            if of_plot:
                _draw_line(axis, label, of_plot, place)
        title = metric.replace("_", " ")
        if several and extractor != "none":
            title += f" ({extractor})"
        _finish(axis, title)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    for axis in axes[(rows - 1) * columns : len(names)]:
        axis.set_xlabel("generation", fontsize=9)
    _legend(figure, axes, [label for label, _ in lines], columns)
    return figure


def plots_of(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """The (metric, extractor) pairs that get a plot, in order of appearance."""
    names: dict[tuple[str, str], None] = {}
    for _, points in lines:
        for r in points:
            if r["metric"] != LAST or r["value"]:
                names[r["metric"], r["extractor"]] = None
    return sorted(names, key=lambda name: name[0] == LAST)


def _grid(width: float, height: float, rows: int, columns: int, legend_height: float) -> dict[str, float]:
    """Margins and gaps for tick labels, titles and legend.

    A layout engine would draw everything twice to find them.
    """
    plot_width = (width - 0.65) / columns - 0.55
    plot_height = (height - 0.3 - legend_height) / rows - 0.55
    return {
        "left": 0.55 / width,
        "right": 1 - 0.1 / width,
        "top": 1 - 0.3 / height,
        "bottom": legend_height / height,
        "wspace": 0.55 / plot_width,
        "hspace": 0.55 / plot_height,
    }


def _draw_line(axis: Any, label: str, points: list[dict[str, Any]], place: int) -> None:
    """One line with its interval; the first line of a plot also draws the noise floor.

    `place` decides its colour.
    """
    first = not axis.lines
    generations = [r["generation"] for r in points]
    values = [r["value"] for r in points]
    colour, (line, marker) = COLOURS[place % len(COLOURS)], STYLES[place // len(COLOURS) % len(STYLES)]
    axis.plot(generations, values, line, marker=marker, ms=3, lw=1.4, color=colour, label=label)
    if all(r["ci_low"] is not None for r in points):
        low, high = [r["ci_low"] for r in points], [r["ci_high"] for r in points]
        axis.fill_between(generations, low, high, color=colour, alpha=0.18, lw=0, label=INTERVAL)
    if first and points[0]["floor"] is not None:
        axis.axhline(points[0]["floor"], color="#888888", ls="--", lw=1, label=FLOOR)


def _finish(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.tick_params(labelsize=8)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def _legend(figure: Any, axes: Any, labels: list[str], columns: int) -> None:
    """One legend below all plots: each label once, then the interval and the noise floor."""
    from matplotlib.patches import Patch

    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles[label] = handle
    if not handles:
        return
    if INTERVAL in handles and len(labels) > 1:
        handles[INTERVAL] = Patch(color="#888888", alpha=0.3, lw=0)
    order = sorted(handles, key=lambda label: [*labels, INTERVAL, FLOOR].index(label))
    figure.legend(
        [handles[label] for label in order],
        order,
        loc="lower center",
        ncols=min(columns + 1, len(order)),
        fontsize=9,
        frameon=False,
    )
