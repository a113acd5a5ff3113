"""The tables of the command line: a run, a comparison, a diagnosis, arms, samplers.

`difflab.report.blocks` fits them to the width of the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from difflab.core.progress import clock
from difflab.core.text import plain
from difflab.evaluation.finding import ALONE
from difflab.metrics import METRICS
from difflab.metrics.evaluate import left_out
from difflab.metrics.row_name import measure_name
from difflab.report.blocks import Blocks, Column, Roomy
from difflab.runs.origins import Composition
from difflab.runs.run import Run


def table(run: Run, width: int | None = None, rows: list[dict[str, Any]] | None = None) -> Group:
    """One row per generation and one column per measure. The first row holds the floors.

    Each value is followed by the half width of its 95% interval, unless this would need one more table;
    metrics.jsonl always has the interval.

    Args:
        width: see Blocks.
        rows: the rows to show; None = all rows of the run.
    """
    rows = run.rows() if rows is None else rows
    columns = list(
        dict.fromkeys(
            (r["metric"], r["extractor"])
            for r in rows
            if r["value"] is not None and r["metric"] != "flagged_share"
        )
    )
    by = {(r["generation"], r["metric"], r["extractor"]): r for r in rows}
    generations = run.generations
    floors = [
        number(by.get((generations[0], *column), {}).get("floor")) if generations else "-"
        for column in columns
    ]
    heads = [Column("gen."), *(Column(head) for head in _heads(columns))]

    def blocks(intervals: bool) -> Blocks:
        body = []
        for t in generations:
            cells = [cell(by.get((t, *column)), intervals) for column in columns]
            body.append([str(t), *cells])
        return Blocks(heads, [["floor", *floors], *body], dim=1, width=width)

    title = Text(f" {run.config.name}: recipe {run.recipe}", style="bold", no_wrap=True, overflow="ellipsis")
    return Group(title, Roomy(blocks(True), blocks(False)))


def _heads(columns: Sequence[tuple[str, str]], unnamed: Sequence[str] = ()) -> list[str]:
    """The names of measures, one word per line, with the extractor if there are several.

    Extractors in `unnamed` do not count as one.
    """
    several = len({extractor for _, extractor in columns if extractor not in unnamed}) > 1
    return [
        metric.replace("_", "\n") + (f"\n({extractor})" if several else "") for metric, extractor in columns
    ]


def comparison(rows: list[dict[str, Any]]) -> Blocks:
    """One row per measure: value, 95% interval, floor, n, and which value is best. For `difflab compare`."""
    heads = [
        Column("measure", "left", text=True),
        Column("on", "left", text=True),
        *map(Column, ("value", "95% interval", "floor", "n")),
    ]
    body = []
    for row in rows:
        if row["value"] is not None:
            between = "" if row["ci_low"] is None else f"{number(row['ci_low'])} to {number(row['ci_high'])}"
            better = METRICS[measure_name(row["metric"])].better
            body.append(
                [
                    row["metric"],
                    row["extractor"],
                    number(row["value"]),
                    between,
                    number(row["floor"]),
                    str(row["n"]),
                    better,
                ]
            )
    return Blocks([*heads, Column("better", "left")], body, keys=2)


def published(rows: list[dict[str, Any]]) -> Blocks:
    """The numbers of a published protocol with seven digits. For `difflab compare`."""
    heads = [Column("measure", "left", text=True), Column("value"), Column("n generated")]
    body = [[row["metric"], f"{row['value']:.7g}", str(row["n"])] for row in rows if row["value"] is not None]
    return Blocks(heads, body)


def measures(rows: list[dict[str, Any]]) -> Blocks:
    """The measures that a run has, can have and cannot have. For `difflab measure`."""
    heads = [
        Column("measure", "left", text=True),
        Column("on", "left", text=True),
        Column("state", "left"),
        Column("about", "left", text=True),
    ]
    return Blocks(
        heads, [[row["metric"], row["extractor"] or "-", row["state"], row["about"]] for row in rows]
    )


def remarks(rows: list[dict[str, Any]]) -> list[str]:
    """Lines about measures: the reason for each missing value, and the remark on each other value."""
    lost: dict[str, str] = {}
    noted: dict[str, str] = {}
    for row in rows:
        if row["reason"]:
            reasons = lost if row["value"] is None else noted
            reasons[f"{row['metric']} ({row['extractor']})"] = row["reason"]
    return [f"left out: {line}" for line in left_out(lost)] + [f"noted: {line}" for line in left_out(noted)]


def changes(rows: Sequence[Any]) -> Blocks:
    """The measures that changed most. `rows` are `difflab.evaluation.summary.Change` objects.

    Empty columns are left out.
    """
    columns = [("measure", lambda row: row.metric), ("on", lambda row: row.extractor)]
    if any(row.arm for row in rows):
        columns.insert(0, ("arm", lambda row: row.arm))
    keys, last = len(columns), "value"
    if any(row.first is not None for row in rows):
        columns.append(("first", lambda row: number(row.first)))
        last = "last"
    columns += [
        (last, _with_interval),
        ("floor", lambda row: number(row.floor)),
        ("n", lambda row: str(row.n)),
    ]
    heads = []
    for place, (head, _) in enumerate(columns):
        heads.append(Column(head, "left", text=True) if place < keys else Column(head))
    body = []
    for row in rows:
        body.append([cell_of(row) for _, cell_of in columns])
    return Blocks(heads, body, keys=keys)


def _with_interval(row: Any) -> str:
    """The last value of a change, with the half width of its interval."""
    text = number(row.last)
    if row.ci_low is not None:
        text += f" ±{number((row.ci_high - row.ci_low) / 2, 1)}"
    return text


def stages(run: Run, rows: list[dict[str, Any]]) -> Blocks:
    """Which stages of each generation are done, and the seconds that they took. For `difflab status`."""
    names = [name for name in rows[0] if name != "generation"]
    seconds: dict[int, float] = {}
    for timing in run.timings():
        seconds[timing["generation"]] = seconds.get(timing["generation"], 0.0) + timing["seconds"]
    body = []
    for row in rows:
        spent = seconds.get(row["generation"])
        marks = ["done" if row[name] else "-" for name in names]
        body.append([str(row["generation"]), *marks, f"{spent:.1f}" if spent else "-"])
    heads = [Column("generation"), *(Column(name, "center") for name in names), Column("seconds")]
    return Blocks(heads, body, f"{run.path}: {run.config.name}, recipe {run.recipe}")


def compositions(path: Path, found: dict[int, Composition]) -> Blocks:
    """What each training set consists of, by its generation. For `difflab status`."""
    heads = [Column(head) for head in ("training set", "images", "real", "synthetic", "unknown")]
    heads += [Column("share synthetic"), Column("images by depth", "left"), Column("mean depth")]
    body = []
    for generation, of_set in found.items():
        counts = [f"{of_set.origins.get(name, 0):,}" for name in ("real", "synthetic", "unknown")]
        depths = ", ".join(f"{depth}: {count:,}" for depth, count in of_set.depths.items())
        share = f"{of_set.synthetic_share:.1%}"
        body.append(
            [str(generation), f"{of_set.images:,}", *counts, share, depths, number(of_set.mean_depth)]
        )
    return Blocks(heads, body, f"{path}: origin of the training images (depth 0 = real)")


def costs(rows: Sequence[Any], title: str) -> Blocks:
    """The cost of each stage over all generations. `rows` are `difflab.loop.plan.Cost` objects.

    For `difflab plan`.
    """
    names = list(dict.fromkeys(cost.stage for cost in rows))
    body = []
    for name in names:
        of_stage = [cost for cost in rows if cost.stage == name]
        body.append(_cost_row(name, of_stage))
    total = _cost_row("total", rows)
    total[1:3] = "", ""
    heads = [Column("stage", "left")]
    heads += [Column(head) for head in ("generations", "images", "TFLOP", "disk", "estimated time")]
    return Blocks(heads, [*body, total], title, ends=1)


def _cost_row(name: str, rows: Sequence[Any]) -> list[str]:
    images, flops = sum(cost.images for cost in rows), sum(cost.flops for cost in rows)
    disk, seconds = sum(cost.disk_bytes for cost in rows), sum(cost.seconds for cost in rows)
    return [
        name,
        str(len(rows)),
        f"{images:,}",
        f"{flops / 1e12:,.2f}",
        f"{disk / 2**20:,.1f} MiB",
        clock(seconds),
    ]


def laws(rows: Sequence[dict[str, Any]], title: str) -> Blocks:
    """Values of exact laws beside the values that the engine measured. For `difflab theory`."""
    heads = [Column("law", "left", text=True), Column("what", "left", text=True)]
    heads += [Column(head) for head in ("theory", "measured", "z")]
    body = []
    for row in rows:
        numbers = [f"{row['theory']:.5g}", f"{row['measured']:.5g}", f"{row['z']:+.2f}"]
        body.append([row["law"], row["what"], *numbers])
    return Blocks(heads, body, title)


def samplers(result: Any) -> Group:
    """One row per sampler, the reference first. For `difflab tune-sampling`.

    A mark stands beside the values that tell a sampler apart from the reference.

    Args:
        result: a `difflab.studies.tune_sampling.Tuning`.
    """
    names = list(result.reference.measures)
    heads = [Column("scheduler", "left", text=True), Column("steps"), Column("", "left")]
    heads += [Column(head) for head in ("passes", "s/image", "distance", *_heads([(n, "") for n in names]))]

    def blocks(intervals: bool) -> Blocks:
        body = []
        for row in result.rows():
            verdict = "apart" if row["apart"] else "same"
            if row["role"] == "reference" or row["recommended"]:
                verdict = "reference" if row["role"] == "reference" else "cheapest"
            numbers = [str(row["passes"]), number(row["seconds_per_image"], 2), number(row["distance"])]
            for name in names:
                mark = "*" if name in row["apart"] else " "
                numbers.append(f"{cell(row[name], intervals)} {mark}")
            body.append([row["scheduler"], str(row["steps"]), verdict, *numbers])
        return Blocks(heads, body, keys=2, dim=1)

    title = f"{result.n} images of each sampler, measured on {result.extractor}"
    note = (
        "value ± half its 95% interval, against a reference set of other seeds; * the difference from the "
        "reference is outside its own interval (95% for all measures together)"
    )
    return Group(Text(title, style="bold"), Roomy(blocks(True), blocks(False)), Text(note, style="dim"))


def budget(run: Run) -> str:
    """One sentence: whether the generations had the same budget (images seen, size of the training set)."""
    trained = [training for t in run.generations if (training := run.training(t))]
    if not trained:
        return "budget: fitted by a formula, nothing to match"
    seen = {training["images_seen"] for training in trained}
    sizes = [training["set_size"] for training in trained]
    same = "the same in every generation" if len(seen) == 1 else "not the same in every generation"
    size = f"set size NOT matched: {sizes[0]:,} to {sizes[-1]:,}"
    if len(set(sizes)) == 1:
        size = f"set size {sizes[0]:,} in every generation"
    return f"budget: {max(seen):,} images seen, {same}; {size}"


MARKS = {"present": "yes", "absent": "no", "cannot tell": "?"}


def diagnosis(result: Any) -> Group:
    """A table with one row per generation and one column per definition of collapse.

    Below it stands the verdict on the last generation, with its evidence. For `difflab diagnose`.
    """
    definitions = list(result.findings[0].profile)
    heads = [
        Column("gen."),
        *(Column(name.split()[0]) for name in definitions),
        Column("diagnosis", "left", text=True),
    ]
    body: list[list[str | Text]] = []
    for finding in result.findings:
        marks = [
            Text(MARKS[finding.profile[name]], style="bold" if finding.profile[name] == "present" else "dim")
            for name in definitions
        ]
        body.append([str(finding.generation), *marks, finding.words])
    legend = Text("columns: " + "; ".join(definitions), style="dim")
    return Group(Blocks(heads, body), legend, Text(""), Text("\n".join(_story(result))))


def _story(result: Any) -> list[str]:
    last = result.findings[-1]
    lines = [f"generation {last.generation} (n = {last.n}): {last.words}"]
    lines += [f"  {line}" for line in last.evidence()]
    if last.excluded:
        lines.append(f"  {last.excluded}")
    if last.gone:
        lines.append(f"  classes that no sample was asked for: {', '.join(last.gone[:8])}")
    if last.classes:
        lines += [f"  {plain(name)}: {', '.join(wrong)}" for name, wrong in last.classes.items()]
    if result.first_alarm:
        lines.append(
            f"first alarm: generation {result.first_alarm[0]}, by {', '.join(result.first_alarm[1])}"
        )
    lines += result.doubts
    lines.append(f"what could help: {last.advice}")
    lines += [f"{reason}: {', '.join(names)}" for reason, names in result.unknown.items()]
    lines += [f"left out: {line}" for line in left_out(last.left_out)]
    if len(result.findings) == 1:
        lines.append(ALONE)
    return lines


def cell(row: dict[str, Any] | None, intervals: bool = True) -> str:
    """A value with the half width of its 95% interval, such as '0.412 ±0.03'."""
    if row is None or row["value"] is None:
        return "-"
    text = number(row["value"])
    if intervals and row["ci_low"] is not None:
        text += f" ±{number((row['ci_high'] - row['ci_low']) / 2, 1)}"
    return text


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits. "-" stands for None.

    Large numbers are rounded to whole ones. Numbers below 0.0001 in size have an exponent.
    """
    if value is None:
        return "-"
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    return text if "e" not in text else f"{value:.1e}" if abs(value) < 1e-3 else f"{value:,.0f}"


VERDICTS = {"higher": "*", "lower": "*", "not": "=", "cannot": "?"}
"""First word of a verdict -> its mark in a table of arms."""


def arms(rows: list[dict[str, Any]], width: int | None = None) -> Group:
    """One table per generation, with one row per arm and one column per measure. For `compare-runs`.

    A cell holds the mean over seeds, the half width of its 95% interval, and a mark for the verdict against
    the first arm. An arm without a value has a dash. If arms differ in their number of seeds, a column shows
    it.
    """
    names = list(dict.fromkeys(row["arm"] for row in rows))
    seeds: dict[str, int] = {}
    for row in rows:
        seeds[row["arm"]] = max(row["seeds"], seeds.get(row["arm"], 0))
    shown_seeds = seeds if len(set(seeds.values())) > 1 else None
    parts: list[Any] = []
    for t in dict.fromkeys(row["generation"] for row in rows):
        of_generation = [row for row in rows if row["generation"] == t]
        parts.append(_arms_of_generation(of_generation, t, names, seeds[names[0]] > 0, shown_seeds, width))
    notes = [
        "mean over seeds ± half its 95% interval" if max(seeds.values()) > 1 else "one seed: no interval"
    ]
    if seeds[names[0]] > 0:
        notes += _marks(rows, names[0])
    return Group(*parts, Text("; ".join(notes), style="dim"))


def _arms_of_generation(
    rows: list[dict[str, Any]],
    generation: int,
    names: list[str],
    marked: bool,
    seeds: dict[str, int] | None,
    width: int | None,
) -> Blocks:
    """The table of one generation. `seeds`: number of seeds by arm, for one more column; None = no column."""
    columns = list(dict.fromkeys((row["metric"], row["extractor"]) for row in rows))
    by_cell = {(row["arm"], row["metric"], row["extractor"]): row for row in rows}
    heads, floors = [Column("arm", "left", text=True)], ["floor"]
    if seeds is not None:
        heads.append(Column("seeds"))
        floors.append("")
    keys = len(heads)
    heads += [Column(head) for head in _heads(columns, ("none", "training"))]
    for column in columns:
        known = [by_cell[name, *column]["floor"] for name in names]
        floors.append(number(next((floor for floor in known if floor is not None), None)) + "  ")
    body = [floors]
    for name in names:
        first = [name] if seeds is None else [name, str(seeds[name])]
        body.append([*first, *(_arm_cell(by_cell[name, *column], marked) for column in columns)])
    return Blocks(heads, body, f"generation {generation}", keys=keys, dim=1, width=width)


def _marks(rows: list[dict[str, Any]], baseline: str) -> list[str]:
    """The meanings of the marks that occur in a table of arms."""
    meanings = {
        "*": f"higher or lower than {baseline}",
        "=": "not distinguishable",
        "?": "cannot tell (fewer than two seeds in common)",
    }
    used = {VERDICTS.get(row["verdict"].split()[0]) for row in rows if row["value"] is not None}
    shown = [f"{mark} {meaning}" for mark, meaning in meanings.items() if mark in used]
    return [", ".join(shown)] if shown else []


def _arm_cell(row: dict[str, Any], marked: bool) -> str:
    if row["value"] is None:
        return "-  "
    spread = "" if row["ci_low"] is None else f" ±{number((row['ci_high'] - row['ci_low']) / 2, 1)}"
    return (
        number(row["value"])
        + spread
        + " "
        + (VERDICTS.get(row["verdict"].split()[0], " ") if marked else " ")
    )
