"""Overhead of a sweep: wall time of twelve arms that differ from generation 1 on, over the time of their stages.

Generation 0 is computed once, and the stages that arms share are linked. Both numbers are from one run. Run it from the
root of the repository:

    OMP_NUM_THREADS=1 python benchmarks/sweep.py
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import psutil

from difflab.loop import chain  # noqa: F401  (imported here, so that imports are not part of the wall time)
from difflab.loop.reuse import keys
from difflab.runs.folder import STAGES
from difflab.studies.sweep import Sweep, jobs, run_sweep, runs_of

BASE = Path(__file__).parents[1] / "configs" / "claims" / "base"
ARMS = {
    "replace": {},
    "accumulate": {"regime.name": "accumulate"},
    "subsample": {"regime.name": "accumulate_subsample"},
    "fresh": {"regime.name": "fresh_real", "regime.real_fraction": 0.3},
    "from previous": {"train.start_from": "previous"},
    "dropped conditions": {"policies": [{"policy": "condition_drop", "share": 0.3}]},
    "mislabelled": {"policies": [{"policy": "mislabel", "share": 0.3}]},
    "omitted": {"policies": [{"policy": "omit", "count": 2}]},
    **{f"{k}0% real": {"regime.name": "fixed_real", "regime.real_fraction": k / 10} for k in (2, 4, 6, 8)},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generations", type=int, default=2, help="after generation 0 (default: 2)")
    parser.add_argument("--images-seen", type=int, default=30000, help="by each training (default: 30000)")
    args = parser.parse_args()
    overrides = {"generations": args.generations, "train.images_seen": args.images_seen}
    sweep = Sweep(base="digits.yaml", overrides=overrides, seeds=1, arms=ARMS)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        begun, cpu = time.perf_counter(), time.process_time()
        records = run_sweep(sweep, BASE, out, workers=1)
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        assert not any(record["error"] for record in records), records
        times = [row for *_, run in runs_of(out) for row in run.timings()]
    listed = jobs(sweep, BASE, out)
    different = {
        keys(job.config)[t, stage] for job in listed for t in range(args.generations + 1) for stage in STAGES
    }
    every = len(listed) * (args.generations + 1) * len(STAGES)
    unique = sum(row["seconds"] for row in times)
    alone = unique + (len(listed) - 1) * sum(row["seconds"] for row in times if row["generation"] == 0)
    print(
        f"{os.cpu_count()} cores, load {psutil.getloadavg()[0]:.1f}; digits, {len(listed)} arms, one seed, one worker\n"
    )
    print("| what | value | of what |")
    print("|---|---|---|")
    print(
        f"| stages computed over stages that differ | {len(times) / len(different):.2f} | {len(times)} of {len(different)}; {every} without sharing |"
    )
    print(
        f"| wall time over the stages that differ | {wall / unique:.2f}x | {wall:.0f} s ({cpu:.0f} s of processor), {unique:.0f} s of stages |"
    )
    print(
        f"| stages without sharing over those that differ | {alone / unique:.2f}x | {alone:.0f} s, estimated from generation 0 |"
    )


if __name__ == "__main__":
    main()
