"""Where the time of a sweep goes: twelve arms that differ from generation 1 on.

Generation 0 is computed once, and the stages that arms share are linked. The wall time, times the number of workers, is
divided into the seconds of the stages and the rest: starting the workers (one worker runs in this process, which has
imported everything), checking configs, reading records, linking files, and waiting. All numbers are from one run. Run it
from the root of the repository:

    OMP_NUM_THREADS=1 python benchmarks/sweep.py
    OMP_NUM_THREADS=1 python benchmarks/sweep.py --workers 2
    OMP_NUM_THREADS=1 python benchmarks/sweep.py --workers 2 train.precision=auto
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import yaml

from difflab.loop import chain  # noqa: F401  (imported here, so that imports are not part of the wall time)
from difflab.loop.reuse import keys
from difflab.runs.folder import STAGES
from difflab.studies.executors.local import Local
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
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of all arms")
    args = parser.parse_args()
    overrides: dict[str, Any] = {"generations": args.generations, "train.images_seen": args.images_seen}
    overrides |= {key: yaml.safe_load(value) for key, _, value in (o.partition("=") for o in args.overrides)}
    sweep = Sweep(base="digits.yaml", overrides=overrides, seeds=1, arms=ARMS)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        begun, cpu = time.perf_counter(), spent()
        records = run_sweep(sweep, BASE, out, Local(args.workers))
        wall, cpu = time.perf_counter() - begun, spent() - cpu
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
        f"{os.cpu_count()} cores, load {psutil.getloadavg()[0]:.1f}; digits, {len(listed)} arms, one seed, "
        f"{args.workers} worker(s), {' '.join(args.overrides)}\n"
    )
    print("| what | value | of what |")
    print("|---|---|---|")
    print(
        f"| stages computed over stages that differ | {len(times) / len(different):.2f} | {len(times)} of {len(different)}; {every} without sharing |"
    )
    print(
        f"| wall time over the stages that differ | {args.workers * wall / unique:.2f}x | {args.workers} x {wall:.1f} s ({cpu:.0f} s of processor), {unique:.0f} s of stages |"
    )
    print(
        f"| stages without sharing over those that differ | {alone / unique:.2f}x | {alone:.0f} s, estimated from generation 0 |"
    )
    parts: Counter[str] = Counter()
    for row in times:
        held_out = row.get("held_out_seconds", 0.0)
        parts[row["stage"]] += row["seconds"] - held_out
        parts["held-out loss"] += held_out
    parts["outside of the stages"] = args.workers * wall - unique
    print("\n| part | seconds | share |\n|---|---|---|")
    for part, seconds in parts.most_common():
        print(f"| {part} | {seconds:.1f} | {seconds / (args.workers * wall):.0%} |")


def spent() -> float:
    """Processor seconds of this process and of its children that have ended."""
    times = os.times()
    return sum(times[:4])


if __name__ == "__main__":
    main()
