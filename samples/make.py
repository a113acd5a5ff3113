"""Make the pictures in samples/ anew from real runs: ``python samples/make.py`` (or ``make samples``).

Runs the digits chain, its two arms of the same budget and the emoji chain under runs/, resumes what is there, and writes the
strips, the curves and samples/README.md with the command, the machine and the time of each.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from difflab import Run, open_run
from difflab.report.curves import curves
from difflab.report.table import number

ROOT = Path(__file__).resolve().parent.parent
GROUPS = (("digits", "digits-accumulate", "digits-fresh"), ("emoji",))  # runs that share a table and their curves
SHOWN = ("precision", "recall", "coverage", "fd", "trace_ratio", "class_accuracy")


def main() -> None:
    folder = ROOT / "samples"
    lines = [
        "# Samples",
        "",
        "Made by `make samples`. Each run is `difflab run configs/NAME.yaml --out runs/NAME`; the times are those of the machine",
        f"that made these files ({os.cpu_count()} CPU cores, {platform.machine()}, no GPU).",
        "",
    ]
    for group in GROUPS:
        runs = []
        for name in group:
            subprocess.run([sys.executable, "-m", "difflab", "run", f"configs/{name}.yaml", "--out", f"runs/{name}"], cwd=ROOT, check=True)
            runs.append(open_run(ROOT / "runs" / name))
            runs[-1].strip().save(folder / f"{name}-strip.png", optimize=True)
        curves(runs).savefig(folder / f"{group[0]}-curves.png", dpi=110)
        lines += [f"## {group[0]}", "", *section(runs), ""]
    lines += ["The floor is the measure between two disjoint real sets of the same size. Brackets: 95% interval.", ""]
    (folder / "README.md").write_text("\n".join(lines))


def section(runs: list[Run]) -> list[str]:
    """Pictures, the table of first and last generations, and what each run took."""
    name = runs[0].config.name
    lines = [
        f"![{name}: the same seeds in every generation]({name}-strip.png)",
        "",
        f"![{name}: every measure, with 95% intervals and floors]({name}-curves.png)",
        "",
        "| run | generation | " + " | ".join(SHOWN) + " |",
        "|---|---|" + "---|" * len(SHOWN),
    ]
    for run in runs:
        for t in (None, 0, run.config.generations) if run is runs[0] else (run.config.generations,):
            found = {r["metric"]: r for r in run.rows() if r["generation"] == (t or 0)}
            cells = [
                number(found[m]["floor"])
                if t is None
                else f"{number(found[m]['value'])} [{number(found[m]['ci_low'])}, {number(found[m]['ci_high'])}]"
                for m in SHOWN
            ]
            lines.append(
                f"| {'floor (real against real)' if t is None else run.config.name} | {'' if t is None else t} | " + " | ".join(cells) + " |"
            )
    lines.append("")
    for run in runs:
        seconds = sum(x["seconds"] for x in run.timings())
        lines.append(f"- `{run.config.name}`: {seconds:.0f} s, recipe `{run.recipe}`, n = {run.rows()[1]['n']}")
    return lines


if __name__ == "__main__":
    main()
