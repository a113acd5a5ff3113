"""Peak memory of every stage of a chain of tiny-sd on emoji: this build beside an earlier one.

    OMP_NUM_THREADS=2 python benchmarks/peak_memory.py --build 43c319c
    OMP_NUM_THREADS=2 python benchmarks/peak_memory.py train.precision=bf16 sample.precision=bf16

The chain is the preset emoji with one generation after the first and 512 images seen by its training. The builds
take turns, each time in a new process. The memory is that of the process (resident), from the start of a stage to its
end, in GB; the smallest and the largest of the repeats are printed. Overrides of the config hold for both builds. Run it
from the root of the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HOME = Path(__file__).parents[1]
STAGES = ("sample", "measure", "train")
CHAIN = ["generations=1", "train.images_seen=512"]
Peaks = dict[str, float]
"""Peak memory in GB by "stage generation", and of the whole process: "process"."""
LARGEST = """
import resource, runpy, sys
from pathlib import Path
sys.argv[0] = "difflab"
try:
    runpy.run_module("difflab", run_name="__main__")
finally:
    print("LARGEST", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, file=sys.stderr)
"""


def peaks(home: Path, overrides: list[str], out: Path) -> Peaks:
    """Run the chain with the difflab of `home`."""
    command = [sys.executable, "-c", LARGEST, "run", str(HOME / "configs" / "emoji.yaml"), *CHAIN, *overrides]
    done = subprocess.run(
        [*command, "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(home), "DIFFLAB_CACHE": str(out.parent / "cache")},
        cwd=home,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    timings = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    found = {
        f"{row['stage']} {row['generation']}": row["peak_gb"] for row in timings if row["stage"] in STAGES
    }
    largest = next(line for line in done.stderr.splitlines() if line.startswith("LARGEST"))
    return {**found, "process": float(largest.split()[1])}


def row(stage: str, runs: dict[str, list[Peaks]]) -> str:
    """One line of the table: the range of each build, and the ratio of the means."""
    values = {build: [one[stage] for one in found] for build, found in runs.items()}
    ranges = [f"{min(v):.2f} to {max(v):.2f}" for v in values.values()]
    earlier, now = (sum(v) / len(v) for v in values.values())
    return f"| {stage} | {' | '.join(ranges)} | {now / earlier:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the config, for both builds")
    parser.add_argument("--build", default="43c319c", help="the commit to compare with")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    worktree = ["git", "-C", str(HOME), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        subprocess.run([*worktree, "add", "-q", "--detach", str(before), args.build], check=True)
        try:
            builds = {args.build: before, "this build": HOME}
            runs: dict[str, list[Peaks]] = {build: [] for build in builds}
            for turn in range(args.repeats):
                for build, home in builds.items():
                    name = f"{turn}-{home.name}"
                    runs[build].append(peaks(home, args.overrides, Path(folder) / name / "run"))
        finally:
            subprocess.run([*worktree, "remove", "--force", str(before)], check=True)
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}; GB\n")
    print(f"| stage and generation | {' | '.join(builds)} | ratio |\n|---|---|---|---|")
    for stage in runs["this build"][0]:
        print(row(stage, runs))


if __name__ == "__main__":
    main()
