"""Small multiples: one plot per measure over the generations, with interval and noise floor, drawn with matplotlib."""

from __future__ import annotations

from typing import Any

# Colour-blind safe (Okabe & Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = (("-", "o"), (":", "s"), ("-.", "^"))  # line and marker; a floor is dashed
COLUMNS = 4
INTERVAL, FLOOR = "95% interval", "floor (real against real)"


def curve_figure(lines_of: list[tuple[str, list[dict[str, Any]]]]) -> Any:
    """One plot per measure and extractor, one line per label: rows with generation, metric, extractor, value, ci_low, ci_high and floor."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    labels, rows = [label for label, _ in lines_of], [own for _, own in lines_of]
    # Flagged images are a check, not a result: last, and left out where nothing was found.
    names = list(
        dict.fromkeys(
            (r["metric"], r["extractor"])
            for own in rows
            for r in own
            if r["metric"] != "flagged_share" or r["value"]
        )
    )
    names.sort(key=lambda name: name[0] == "flagged_share")
    columns = min(COLUMNS, max(1, len(names)))
    lines = max(1, -(-len(names) // columns))
    below = 0.6 + 0.22 * -(-(len(labels) + 2) // (columns + 1))
    width, height = max(4.5, 3.1 * columns), 2.35 * lines + below
    figure = Figure(figsize=(width, height))
    # Room in inches for tick labels, titles and the legend: a layout engine would draw everything twice to find it.
    inner = {
        "left": 0.55 / width,
        "right": 1 - 0.1 / width,
        "top": 1 - 0.3 / height,
        "bottom": below / height,
    }
    wide, tall = (width - 0.65) / columns - 0.55, (height - 0.3 - below) / lines - 0.55
    axes = figure.subplots(
        lines, columns, squeeze=False, gridspec_kw={**inner, "wspace": 0.55 / wide, "hspace": 0.55 / tall}
    ).ravel()
    several = len({extractor for _, extractor in names if extractor != "none"}) > 1
    for axis, (metric, extractor) in zip(axes, names, strict=False):
        for k, own in enumerate(rows):
            points = [r for r in own if (r["metric"], r["extractor"]) == (metric, extractor)]
            if not points:
                continue
            drawn, t = bool(axis.lines), [r["generation"] for r in points]
            colour, (line, marker) = COLOURS[k % len(COLOURS)], STYLES[k // len(COLOURS) % len(STYLES)]
            axis.plot(
                t,
                [r["value"] for r in points],
                line,
                marker=marker,
                ms=3,
                lw=1.4,
                color=colour,
                label=labels[k],
            )
            if all(r["ci_low"] is not None for r in points):
                low, high = [r["ci_low"] for r in points], [r["ci_high"] for r in points]
                axis.fill_between(t, low, high, color=colour, alpha=0.18, lw=0, label=INTERVAL)
            if not drawn and points[0]["floor"] is not None:
                axis.axhline(points[0]["floor"], color="#888888", ls="--", lw=1, label=FLOOR)
        axis.set_title(
            metric.replace("_", " ") + (f" ({extractor})" if several and extractor != "none" else ""),
            fontsize=10,
        )
        axis.tick_params(labelsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    for axis in axes[(lines - 1) * columns : len(names)]:
        axis.set_xlabel("generation", fontsize=9)
    # Each label once, whichever plot it is in: the runs, then what band and dashes mean.
    shown = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if INTERVAL in shown and len(labels) > 1:
        shown[INTERVAL] = Patch(color="#888888", alpha=0.3, lw=0)
    order = sorted(shown, key=lambda label: [*labels, INTERVAL, FLOOR].index(label))
    if shown:
        handles = [shown[label] for label in order]
        figure.legend(
            handles, order, loc="lower center", ncols=min(columns + 1, len(order)), fontsize=9, frameon=False
        )
    return figure
