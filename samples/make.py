"""Make the pictures in samples/ anew from real runs: ``python samples/make.py [TITLE ...]`` (or ``make samples``).

Runs the chains below under runs/, resumes what is there, and writes strips, curves, one report and samples/README.md with the command, the
machine and the time of each. With titles only those are run; the page then shows all that are there.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from difflab import Run, open_run
from difflab.report.curves import curves
from difflab.report.page import report
from difflab.report.table import number
from difflab.report.verdict import verdict

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "samples"
SHOWN = ("precision", "recall", "coverage", "fd", "trace_ratio", "class_accuracy")


@dataclass(frozen=True)
class Sample:
    """runs: name of each run, its config and what is different in it; the first one's strip leads."""

    title: str
    says: str
    runs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    report: bool = False


SAMPLES = (
    Sample(
        "digits",
        "A small model is fitted to 500 handwritten digits, a new one to 500 samples of that, and so on; then the same budget with all data kept, and with "
        "30% fresh real images.",
        {name: (f"configs/{name}.yaml",) for name in ("digits", "digits-accumulate", "digits-fresh")},
        report=True,
    ),
    Sample("emoji", "A tiny Stable Diffusion fine-tuned on its own pictures of the same captions.", {"emoji": ("configs/emoji.yaml",)}),
    Sample(
        "guidance 1 against 7.5",
        "The same chain without guidance and with much of it: washed out or burnt.",
        {
            f"emoji-guidance-{scale}": ("configs/emoji.yaml", "generations=3", f"sample.guidance_scale={scale}", f"name=emoji-guidance-{scale}")
            for scale in ("1", "7.5")
        },
    ),
    Sample(
        "healing",
        "Three generations on nothing but samples, then three on nothing but the first real images.",
        {
            "digits-healed": (
                "configs/digits.yaml",
                "name=digits-healed",
                "generations=6",
                "train.images_seen=50000",
                "train.start_from=previous",
                "policies=[{policy: healing, first: 4}]",
            )
        },
    ),
    Sample(
        "an ecosystem",
        "Three labs that train on each other's samples; the third has a smaller network.",
        {"ecosystem": ("configs/ecosystem.yaml", "train.images_seen=50000")},
    ),
)


def main(titles: list[str]) -> None:
    unknown = [title for title in titles if title not in {sample.title for sample in SAMPLES}]
    if unknown:
        raise SystemExit(f"there is no sample '{unknown[0]}'; there are: {', '.join(sample.title for sample in SAMPLES)}")
    for sample in SAMPLES:
        if not titles or sample.title in titles:
            make(sample)
    lines = [
        "# Samples",
        "",
        f"Made by `make samples` on {os.cpu_count()} CPU cores ({platform.machine()}, no GPU), beside other work; seconds are those of all stages.",
        "The floor is the measure between two disjoint real sets of the same size. Brackets: 95% interval over images; one seed each.",
        "",
    ]
    for sample in SAMPLES:
        if all((ROOT / "runs" / name / "run.yaml").exists() for name in sample.runs):
            lines += [f"## {sample.title}", "", *section(sample), ""]
    (FOLDER / "README.md").write_text("\n".join(lines))


def command(name: str, words: tuple[str, ...]) -> str:
    return "difflab run " + " ".join(shlex.quote(word) if " " in word else word for word in words) + f" --out runs/{name}"


def make(sample: Sample) -> None:
    runs = []
    for name, words in sample.runs.items():
        subprocess.run([sys.executable, "-m", "difflab", "run", *words, "--out", f"runs/{name}"], cwd=ROOT, check=True)
        runs.append(open_run(ROOT / "runs" / name))
        runs[-1].strip().quantize(256, method=Image.Quantize.FASTOCTREE).save(FOLDER / f"{name}-strip.png", optimize=True)
    first = runs[0].path.name
    drawn = runs[0].curves() if len(runs[0].parts) > 1 else curves(runs)
    drawn.savefig(FOLDER / f"{first}-curves.png", dpi=80)
    if sample.report:
        page = report(runs, FOLDER / f"{first}-report.html", verdict=verdict)
        photograph(page, FOLDER / f"{first}-report.png")


def photograph(page: Path, to: Path) -> None:
    """The head of a report as Chromium shows it, where there is one."""
    chromium = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if chromium is None:
        print(f"no Chromium here: {to.name} is not made anew")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1100, "height": 1500})
        tab.goto(page.as_uri())
        tab.wait_for_selector("#cards .card")
        tab.wait_for_timeout(1500)
        tab.screenshot(path=to)
        browser.close()
    with Image.open(to) as picture:
        picture.convert("RGB").quantize(256).save(to, optimize=True)


def section(sample: Sample) -> list[str]:
    """Pictures, the table of first and last generations, and the command of each run and what it took."""
    runs = [open_run(ROOT / "runs" / name) for name in sample.runs]
    lines = [sample.says, ""]
    for run in runs if len(runs) < 3 else runs[:1]:
        lines += [f"![{run.config.name}: the same seeds in every generation]({run.path.name}-strip.png)", ""]
    lines += [f"![{sample.title}: every measure, with 95% intervals and floors]({runs[0].path.name}-curves.png)", ""]
    if sample.report:
        name = f"{runs[0].path.name}-report"
        lines += [f"[The report]({name}.html), one file to download and open:", "", f"![the head of the report]({name}.png)", ""]
    lines += table([part for run in runs for part in run.parts])
    for (name, words), run in zip(sample.runs.items(), runs, strict=True):
        seconds = sum(x["seconds"] for x in run.timings())
        n = next(row["n"] for row in run.rows() if row["metric"] in SHOWN)
        lines.append(f"- `{command(name, words)}`: {seconds:.0f} s, recipe `{run.recipe}`, n = {n}")
    return lines


def table(runs: list[Run]) -> list[str]:
    lines = ["| run | generation | " + " | ".join(SHOWN) + " |", "|---|---|" + "---|" * len(SHOWN)]
    for run in runs:
        name = run.config.name if run.config.ecosystem is None else f"lab {run.config.lab}"
        for t in (None, 0, run.config.generations) if run is runs[0] else (run.config.generations,):
            found = {r["metric"]: r for r in run.rows() if r["generation"] == (t or 0)}
            cells = [number(found[m]["floor"]) if t is None else value(found[m]) for m in SHOWN]
            lines.append(f"| {'floor (real against real)' if t is None else name} | {'' if t is None else t} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def value(row: dict) -> str:
    return number(row["value"]) + ("" if row["ci_low"] is None else f" [{number(row['ci_low'])}, {number(row['ci_high'])}]")


if __name__ == "__main__":
    main(sys.argv[1:])
