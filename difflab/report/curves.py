"""Every measure over the generations, with its interval and its floor."""

from __future__ import annotations

from typing import Any

from difflab.run import Run

# Colour-blind safe (Okabe & Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLUMNS = 4


def curves(runs: list[Run], metrics: list[str] | None = None) -> Any:
    """A matplotlib figure with one small plot per measure and extractor; several runs are drawn over each other.

    Args:
        runs: runs to draw; their config's names make the legend when there is more than one.
        metrics: names to draw; None = all that were taken.
    """
    from matplotlib.figure import Figure

    rows = [[r for r in run.rows() if r["value"] is not None and (metrics is None or r["metric"] in metrics)] for run in runs]
    names = list(dict.fromkeys((r["metric"], r["extractor"]) for own in rows for r in own))
    lines = max(1, -(-len(names) // COLUMNS))
    figure = Figure(figsize=(3.1 * COLUMNS, 2.35 * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    several = len({extractor for _, extractor in names if extractor != "none"}) > 1
    for axis, (metric, extractor) in zip(axes, names, strict=False):
        for k, (run, own) in enumerate(zip(runs, rows, strict=True)):
            points = [r for r in own if (r["metric"], r["extractor"]) == (metric, extractor)]
            if not points:
                continue
            t = [r["generation"] for r in points]
            colour = COLOURS[k % len(COLOURS)]
            axis.plot(t, [r["value"] for r in points], marker="o", ms=3, lw=1.4, color=colour, label=run.config.name)
            if all(r["ci_low"] is not None for r in points):
                axis.fill_between(t, [r["ci_low"] for r in points], [r["ci_high"] for r in points], color=colour, alpha=0.18, lw=0)
            if k == 0 and points[0]["floor"] is not None:
                axis.axhline(points[0]["floor"], color="#888888", ls="--", lw=1, label="floor (real against real)")
        axis.set_title(metric.replace("_", " ") + (f" ({extractor})" if several and extractor != "none" else ""), fontsize=10)
        axis.tick_params(labelsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    for axis in axes[max(0, len(names) - COLUMNS) : len(names)]:
        axis.set_xlabel("generation", fontsize=9)
    if names:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=9, frameon=False)
    return figure
