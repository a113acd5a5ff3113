"""Make the files in samples/ from real runs: ``python samples/make.py [TITLE ...]`` (or ``make samples``).

The chains below are run, or resumed, under runs/. Titles select some of the samples; the default is all. For each sample, strips and
curves are written, for some also a report. runs.jsonl gets the numbers, the command, the machine and the time of each run.
`make docs` writes samples/README.md from runs.jsonl.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from difflab import Run, open_run
from difflab.report.arms import curves
from difflab.report.page import report
from difflab.report.verdict import verdict

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "samples"
SHOWN = ("precision", "recall", "coverage", "fd", "trace_ratio", "class_accuracy")


@dataclass(frozen=True)
class Sample:
    """A section of samples/README.md.

    Attributes:
        title: its title.
        says: the text below the title.
        runs: for each run, its name and the arguments of ``difflab run``: a config and changed fields. The files
            of the sample have the name of the first run.
        report: whether the report is written too.
    """

    title: str
    says: str
    runs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    report: bool = False


SAMPLES = (
    Sample(
        "digits",
        "A small diffusion model is trained on 500 handwritten digits, a new model on 500 samples of the first, and so on. Two more chains have the same "
        "training budget: one keeps all data, the other adds 30% fresh real images.",
        {name: (f"configs/{name}.yaml",) for name in ("digits", "digits-accumulate", "digits-fresh")},
        report=True,
    ),
    Sample(
        "emoji",
        "A tiny Stable Diffusion is fine-tuned on its own images of the same captions.",
        {"emoji": ("configs/emoji.yaml",)},
        report=True,
    ),
    Sample(
        "guidance 1 against 7.5",
        "The same chain without guidance and with a guidance scale of 7.5. Images become soft without guidance and oversaturated with it.",
        {
            f"emoji-guidance-{scale}": (
                "configs/emoji.yaml",
                "generations=3",
                f"sample.guidance_scale={scale}",
                f"name=emoji-guidance-{scale}",
            )
            for scale in ("1", "7.5")
        },
    ),
    Sample(
        "healing",
        "Generations 1 to 3 are trained on samples only, generations 4 to 6 on the first real images only.",
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
        "Three labs train on each other's samples. The third lab has a smaller network.",
        {"ecosystem": ("configs/ecosystem.yaml", "train.images_seen=50000")},
    ),
)


def main(titles: list[str]) -> None:
    unknown = [title for title in titles if title not in {sample.title for sample in SAMPLES}]
    if unknown:
        raise SystemExit(
            f"there is no sample '{unknown[0]}'; there are: {', '.join(sample.title for sample in SAMPLES)}"
        )
    for sample in SAMPLES:
        if not titles or sample.title in titles:
            make(sample)


def command(name: str, words: tuple[str, ...]) -> str:
    return (
        "difflab run "
        + " ".join(shlex.quote(word) if " " in word else word for word in words)
        + f" --out runs/{name}"
    )


def make(sample: Sample) -> None:
    runs: list[Run] = []
    for name, words in sample.runs.items():
        subprocess.run(
            [sys.executable, "-m", "difflab", "run", *words, "--out", f"runs/{name}"], cwd=ROOT, check=True
        )
        runs.append(open_run(ROOT / "runs" / name))
        runs[-1].strip().quantize(256, method=Image.Quantize.FASTOCTREE).save(
            FOLDER / f"{name}-strip.png", optimize=True
        )
    first = runs[0].path.name
    drawn = runs[0].curves() if len(runs[0].parts) > 1 else curves(runs)
    drawn.savefig(FOLDER / f"{first}-curves.png", dpi=80)
    keep(sample, runs)
    if sample.report:
        page = report(runs, FOLDER / f"{first}-report.html", verdict=verdict)
        photograph(page, FOLDER / f"{first}-report.png")


def photograph(page: Path, to: Path) -> None:
    """Save a screenshot of the top of a report. Without Chromium, print a message instead."""
    chromium = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
        None,
    )
    if chromium is None:
        print(f"Chromium is not installed: {to.name} was not updated")
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


def keep(sample: Sample, runs: list[Run]) -> None:
    """Write a line for each run of a sample into runs.jsonl. The samples have the order of `SAMPLES`."""
    path = FOLDER / "runs.jsonl"
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = [line for line in known if line["sample"] != sample.title]
    for (name, words), run in zip(sample.runs.items(), runs, strict=True):
        about = {
            "sample": sample.title,
            "says": sample.says,
            "report": sample.report,
            "run": name,
            "command": command(name, words),
        }
        about |= {
            "recipe": run.recipe,
            "seconds": round(sum(x["seconds"] for x in run.timings())),
            "machine": machine(),
        }
        known.append(about | {"parts": [numbers(part) for part in run.parts]})
    order = [one.title for one in SAMPLES]
    known.sort(key=lambda line: order.index(line["sample"]))
    path.write_text("".join(json.dumps(line) + "\n" for line in known))


def numbers(run: Run) -> dict[str, Any]:
    """The values of the measures SHOWN in the first and the last generation, and their floors."""
    name = run.config.name if run.config.ecosystem is None else f"lab {run.config.lab}"
    rows = {
        (r["generation"], r["metric"]): r
        for r in run.rows()
        if r["metric"] in SHOWN and r["value"] is not None
    }
    last = run.config.generations
    values = {
        t: {m: [rows[t, m][key] for key in ("value", "ci_low", "ci_high")] for m in SHOWN if (t, m) in rows}
        for t in (0, last)
    }
    return {
        "name": name,
        "last": last,
        "n": rows[0, "recall"]["n"],
        "floor": {m: rows[0, m]["floor"] for m in SHOWN if (0, m) in rows},
        "values": values,
    }


def machine() -> str:
    return f"{os.cpu_count()} CPU cores, {platform.machine()}, no GPU"


if __name__ == "__main__":
    main(sys.argv[1:])
