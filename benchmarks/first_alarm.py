"""Which measure sees a collapse first under each regime: the table of first alarms in docs/DIAGNOSIS.md.

    python benchmarks/first_alarm.py                         # digits, five regimes, under runs/first-alarm/; resumes
    python benchmarks/first_alarm.py runs/emoji ...          # existing runs

An alarm is the first generation in which the effect of a measure is present: worse than every control by 3 standard
errors and by a relevant amount (difflab/evaluation/signs.py). Each regime has one seed, so a difference of one
generation means nothing; what many columns have in common does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from difflab.evaluation.diagnose import diagnose_run
from difflab.runs.run import open_run

COMMON = ["sample.guidance_scale=1", "generations=8", "measure.metrics=[fd]", "measure.resamples=0"]
REGIMES = {
    "replace": ["regime.name=replace"],
    "accumulate": ["regime.name=accumulate"],
    "accumulate_subsample": ["regime.name=accumulate_subsample"],
    "fixed_real 30%": ["regime.name=fixed_real", "regime.real_fraction=0.3"],
    "fresh_real 18%": [
        "regime.name=fresh_real",
        "regime.real_fraction=0.18",
    ],  # all that 1,258 images have to give
}


def digits(out: Path) -> dict[str, Path]:
    """Run, or resume, the digits chain under every regime."""
    paths = {}
    for name, regime in REGIMES.items():
        paths[name] = out / name.replace(" ", "-").replace("%", "")
        words = [f"name={paths[name].name}", *COMMON, *regime, "--out", str(paths[name]), "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "difflab", "run", "configs/digits.yaml", *words], stdout=subprocess.DEVNULL
        )
        if done.returncode:
            raise SystemExit(f"{name}: difflab run ended with exit code {done.returncode}")
    return paths


def table(paths: dict[str, Path], extractors: list[str] | None) -> str:
    """The generation of the first alarm, one row per measure and one column per run; - = none."""
    found = {name: diagnose_run(open_run(path), extractors=extractors) for name, path in paths.items()}
    measures = list(
        dict.fromkeys(
            r.sign.metric for d in found.values() for rs in d.findings[-1].readings.values() for r in rs
        )
    )
    first = {
        m: [d.alarms.get(m) for d in found.values()]
        for m in measures
        if m not in ("texture_distance", "near_duplicates")
    }
    order = sorted(first, key=lambda m: sum(99 if t is None else t for t in first[m]))
    lines = ["| measure | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    lines += [f"| {m} | " + " | ".join("-" if t is None else str(t) for t in first[m]) + " |" for m in order]
    lines += [
        "| **diagnosis** of the last generation | "
        + " | ".join(d.findings[-1].name for d in found.values())
        + " |"
    ]
    lines += [
        "| n, generations | "
        + " | ".join(f"{d.recipe['n']}, {d.findings[-1].generation}" for d in found.values())
        + " |"
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/first-alarm"))
    parser.add_argument("--extractors", nargs="+")
    args = parser.parse_args()
    print(table({path.name: path for path in args.runs} or digits(args.out), args.extractors))


if __name__ == "__main__":
    main()
