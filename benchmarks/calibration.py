"""Does a calibrated share hold for seeds that it was not calibrated on? Digits, the small denoiser, fixed real images.

    OMP_NUM_THREADS=1 python benchmarks/calibration.py                     # resumes under runs/calibration

Calibrates on the first seeds. Then runs chains with fresh seeds at three shares: the one that the guard reads, the
estimate, and one well above the upper end of its interval. If the calibration is right, 95% of the chains stay safe at
the first share, about half at the estimate and few above it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from difflab import config as configs
from difflab.studies.calibrate import calibrate, hold

OVERRIDES = [
    "generations=4",
    "measure.extractors=[pixels]",
    "measure.metrics=[coverage]",
    "measure.held_out_loss=0",
    "probe.per_condition=0",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("configs/claims/base/digits.yaml"))
    parser.add_argument("--measure", default="coverage")
    parser.add_argument("--tolerance", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=10, help="bisections (default: 10)")
    parser.add_argument("--fresh", type=int, default=10, help="fresh seeds (default: 10)")
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"))
    args = parser.parse_args()
    config = configs.load(args.config, OVERRIDES)
    found = calibrate(config, args.out, args.measure, args.tolerance, seeds=args.seeds, resolution=1 / 16)
    low, estimate, high = found["ci_low"], found["estimate"], found["ci_high"]
    print(
        f"{args.measure} within {args.tolerance:g} until generation {found['holds_until']}: synthetic share {estimate:.3f} [{low:.3f}, {high:.3f}]"
    )
    print(
        f"by seed {', '.join(f'{s:.3f}' for s in found['by_seed'])}; {found['chains']} chains, {found['generations_run']} generations\n"
    )
    print("| synthetic share | | fresh seeds that hold |\n|---|---|---|")
    rows = {
        "what the guard reads": found["max_synthetic_fraction"],
        "estimate": estimate,
        "half way from the upper end to 1": (high + 1) / 2,
    }
    for name, share in rows.items():
        tried = [
            hold(config, args.out / "fresh", args.measure, args.tolerance, share, seed)
            for seed in range(100, 100 + args.fresh)
        ]
        held = sum(one.left is None for one in tried)
        print(f"| {share:.3f} | {name} | {held} of {args.fresh} |", flush=True)


if __name__ == "__main__":
    main()
