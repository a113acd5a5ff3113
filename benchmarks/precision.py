"""Whether a chain in bf16 has the measures of the same chain in float32: presets, several seeds, paired.

    OMP_NUM_THREADS=1 python benchmarks/precision.py digits
    OMP_NUM_THREADS=1 python benchmarks/precision.py emoji --generations 1 --seeds 3

A run of each seed trains and samples in float32, another one in bf16 (the pixel families sample in float32 in both).
The table has the measures of the last generation, as means over seeds. The column `in` counts the seeds whose value in
bf16 lies in the 95% interval of the float32 run of that seed. The difference is paired by seed, with Student's 95%
interval over seeds: it shows effects that are far smaller than the interval of a run. Give --out to keep the runs, and
the same command to resume them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import psutil
import yaml

from difflab.config.presets import preset
from difflab.core.precision import bf16_is_native
from difflab.runs.run import Run
from difflab.studies.compare_runs import compare_runs
from difflab.studies.executors.local import Local
from difflab.studies.sweep import Sweep, arms_in, run_sweep

ARMS = {
    "float32": {"train.precision": "no", "sample.precision": "no"},
    "bf16": {"train.precision": "bf16", "sample.precision": "bf16"},
}


def held(
    singles: dict[int, Run], halves: dict[int, Run], generation: int
) -> dict[tuple[str, str], list[bool]]:
    """For each measure with an interval, and each seed: whether the interval of float32 holds the value in bf16."""
    found: dict[tuple[str, str], list[bool]] = {}
    for seed, single in singles.items():
        values = {
            _key(row): row["value"] for row in halves[seed].numbers() if row["generation"] == generation
        }
        for row in single.numbers():
            value = values.get(_key(row))
            if row["generation"] == generation and row["ci_low"] is not None and value is not None:
                found.setdefault(_key(row), []).append(row["ci_low"] <= value <= row["ci_high"])
    return found


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["metric"], row["extractor"]


def seconds(runs: dict[int, Run], stage: str) -> float:
    """Seconds of a stage, over all generations and seeds."""
    return sum(row["seconds"] for run in runs.values() for row in run.timings() if row["stage"] == stage)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", help="digits, emoji or another preset")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for example train.images_seen=50000"
    )
    parser.add_argument("--generations", type=int, default=2, help="after generation 0 (default: 2)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="keep the runs in this folder, and resume them")
    args = parser.parse_args()
    overrides: dict[str, Any] = {"generations": args.generations, "probe.per_condition": 0}
    overrides |= {key: yaml.safe_load(value) for key, _, value in (o.partition("=") for o in args.overrides)}
    sweep = Sweep(base=str(preset(args.preset)), overrides=overrides, seeds=args.seeds, arms=ARMS)
    out = args.out or Path(tempfile.mkdtemp())
    records = run_sweep(sweep, Path(), out, Local(1))
    assert not any(record["error"] for record in records), records
    arms = arms_in(out)
    rows = [row for row in compare_runs(arms, generations=[args.generations]) if row["arm"] == "bf16"]
    inside = held(arms[0].runs, arms[1].runs, args.generations)

    native = "with" if bf16_is_native("cpu") else "without"
    print(f"machine: {psutil.cpu_count()} cores {native} bf16 instructions")
    print(f"{' '.join([args.preset, *args.overrides])}, generation {args.generations}, {args.seeds} seeds\n")
    print("| measure | on | float32 | bf16 | difference | in |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        if row["difference"] is None:
            continue
        within = inside.get(_key(row))
        limits = "" if row["diff_low"] is None else f" ({row['diff_low']:+.3g} to {row['diff_high']:+.3g})"
        print(
            f"| {row['metric']} | {row['extractor']} | {row['value'] - row['difference']:.4g} "
            f"| {row['value']:.4g} | {row['difference']:+.3g}{limits} "
            f"| {f'{sum(within)} of {len(within)}' if within else ''} |"
        )
    every = [held for listed in inside.values() for held in listed]
    print(f"\n{sum(every)} of {len(every)} values in bf16 lie in the interval of the float32 run")
    for stage in ("train", "sample"):
        ratio = seconds(arms[0].runs, stage) / seconds(arms[1].runs, stage)
        print(f"{stage}: float32 takes {ratio:.2f} times as long as bf16")


if __name__ == "__main__":
    main()
