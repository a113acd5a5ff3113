"""Does a calibrated share hold for seeds that it was not calibrated on? Digits, the small denoiser, fixed real images.

    OMP_NUM_THREADS=1 python benchmarks/calibration.py                     # resumes under runs/calibration

Calibrates on seeds 0, 1, 2 and then runs chains of fresh seeds at the lower end of the interval, at the estimate and well above the upper end. If
the number is right, most chains hold at the lower end, some at the estimate and few above.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from difflab import config as configs
from difflab.calibrate import calibrate

OVERRIDES = ["generations=4", "measure.extractors=[pixels]", "measure.metrics=[coverage]", "measure.held_out_loss=0", "probe.per_condition=0"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/claims/base/digits.yaml"))
    parser.add_argument("--measure", default="coverage")
    parser.add_argument("--tolerance", type=float, default=0.05)
    parser.add_argument("--fresh", type=int, default=6, help="fresh seeds (default: 6)")
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"))
    args = parser.parse_args()
    config = configs.load(args.config, OVERRIDES)
    found = calibrate(config, args.out, args.measure, args.tolerance, resolution=1 / 16)
    low, estimate, high = found["ci_low"], found["estimate"], found["ci_high"]
    print(f"{args.measure} within {args.tolerance:g} until generation {found['holds_until']}: synthetic share {estimate:.3f} [{low:.3f}, {high:.3f}]")
    print(f"by seed {', '.join(f'{s:.3f}' for s in found['by_seed'])}; {found['chains']} chains, {found['generations_run']} generations\n")
    print("| synthetic share | | fresh seeds that hold |\n|---|---|---|")
    for name, share in (("lower end", low), ("estimate", estimate), ("half way from the upper end to 1", (high + 1) / 2)):
        held = sum(_holds(config, args, share, seed) for seed in range(10, 10 + args.fresh))
        print(f"| {share:.3f} | {name} | {held} of {args.fresh} |", flush=True)


def _holds(config: configs.Config, args: argparse.Namespace, share: float, seed: int) -> bool:
    from difflab.calibrate import _until_it_leaves, _with_share

    path = args.out / "fresh" / f"seed-{seed}" / f"share-{share:.4f}"
    return _until_it_leaves(_with_share(config, share, seed), path, args.out / "fresh", args.measure, None, args.tolerance, share, None).left is None


if __name__ == "__main__":
    main()
