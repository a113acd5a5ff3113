"""What a report costs: four arms of ten generations on digits; bytes, seconds to make against seconds of the runs, seconds to open in Chromium.

    python benchmarks/report.py                                   # resumes under runs/report-benchmark
    python benchmarks/report.py --images-seen 20000               # the same size of report from shorter runs
    python benchmarks/report.py runs/digits runs/digits-fresh     # of runs that are there already

Opening is timed from navigation until the page has drawn its pictures and tables; charts follow as they come into view.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import time
from pathlib import Path

from difflab import config as configs
from difflab.loop.chain import run_chain
from difflab.report.page import report
from difflab.report.verdict import FILE, verdict
from difflab.runs.run import Run, open_run

ARMS = {
    "replace": ["regime.name=replace"],
    "accumulate": ["regime.name=accumulate"],
    "fixed real 30%": ["regime.name=fixed_real", "regime.real_fraction=0.3"],
    "guidance 3": ["sample.guidance_scale=3"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--images-seen", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=Path("runs/report-benchmark"))
    args = parser.parse_args()
    print(f"machine: {os.cpu_count()} cores ({platform.machine()}, load {os.getloadavg()[0]:.1f})")
    runs = [open_run(path) for path in args.runs] or made(args)
    names = [run.path.name for run in runs]
    spent = sum(row["seconds"] for run in runs for row in run.timings())
    page = args.out / "report.html"
    args.out.mkdir(parents=True, exist_ok=True)
    report(runs, page, names)  # imports and opens, once
    started = time.perf_counter()
    report(runs, page, names)
    plain = time.perf_counter() - started
    for run in runs:
        (run.path / FILE).unlink(missing_ok=True)
    started = time.perf_counter()
    report(runs, page, names, verdict)
    full = time.perf_counter() - started
    print("| what | value |\n|---|---|")
    print(f"| {len(runs)} arms, {len(runs[0].generations)} generations: all stages | {spent:.0f} s |")
    print(f"| the report without diagnoses | {plain:.1f} s, {plain / spent:.1%} |")
    print(f"| the report with a diagnosis of each | {full:.1f} s, {full / spent:.1%} |")
    print(f"| size | {page.stat().st_size / 1e6:.1f} MB |")
    print(f"| opened in Chromium | {opened(page)} |")


def made(args: argparse.Namespace) -> list[Run]:
    for name, words in ARMS.items():
        overrides = [f"generations={args.generations}", f"train.images_seen={args.images_seen}", *words]
        run_chain(
            configs.load("configs/digits.yaml", overrides), args.out / name.replace(" ", "-"), plots=False
        )
    return [open_run(args.out / name.replace(" ", "-")) for name in ARMS]


def opened(page: Path) -> str:
    chromium = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
        None,
    )
    if chromium is None:
        return "no Chromium here"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        times = []
        for _ in range(3):
            tab = browser.new_page()
            started = time.perf_counter()
            tab.goto(page.resolve().as_uri())
            tab.wait_for_selector("#cards .card img")
            tab.wait_for_selector("#table tbody tr", state="attached")
            times.append(time.perf_counter() - started)
            tab.close()
        browser.close()
    return f"{min(times):.2f} s (best of 3)"


if __name__ == "__main__":
    main()
