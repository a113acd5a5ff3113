"""What the measures cost: difflab against the packages that publish them, the same numbers from the same features, in one run.

    OMP_NUM_THREADS=2 python benchmarks/measures.py                      # 2 x 5,000 images, d = 2048
    OMP_NUM_THREADS=2 python benchmarks/measures.py --count 50000 --dim 64 --skip-packages     # no matrix of distances is held

FID and KID by torchmetrics (its metrics, the features fed past the network), precision, recall, density and coverage by prdc, the Vendi
Score by the package vendi-score. KID over all pairs in one subset on both sides, so that the numbers are the same.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from difflab.metrics import METRICS, Pair, interval, resampled

NAMES = ("fd", "kid", "precision", "recall", "density", "coverage", "vendi")


def features(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets that differ a little, with a falling spectrum and a common mean, as networks make them."""
    draw = torch.Generator().manual_seed(0)
    scale = torch.arange(1, d + 1).float().pow(-0.5)
    real, fake = (torch.randn(n, d, generator=draw) * scale + 0.3 for _ in range(2))
    return real, fake * 0.95 + 0.01


def by_difflab(real: torch.Tensor, fake: torch.Tensor) -> dict[str, float]:
    pair = Pair(real, fake)
    return {name: METRICS[name].of(pair) for name in NAMES}


def by_packages(real: torch.Tensor, fake: torch.Tensor) -> dict[str, float]:
    from prdc import compute_prdc
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance
    from vendi_score import vendi

    class Pass(torch.nn.Module):  # features in, features out
        num_features = real.shape[1]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    fid = FrechetInceptionDistance(Pass(), normalize=False, input_img_size=(1, 1, real.shape[1])).set_dtype(
        torch.float64
    )
    kid = KernelInceptionDistance(Pass(), subsets=1, subset_size=len(real))
    for metric in (fid, kid):
        metric.inception.num_features = real.shape[1]
        metric.update(real.double(), real=True)
        metric.update(fake.double(), real=False)
    out = {"fd": float(fid.compute()), "kid": float(kid.compute()[0])}
    out |= {
        name: float(value) for name, value in compute_prdc(real.numpy(), fake.numpy(), nearest_k=5).items()
    }
    return out | {"vendi": float(vendi.score_dual(fake.double().numpy(), normalize=True))}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--skip-packages", action="store_true")
    args = parser.parse_args()
    print(
        f"machine: {os.cpu_count()} cores ({platform.machine()}, load {os.getloadavg()[0]:.1f}), {torch.get_num_threads()} threads"
    )
    real, fake = features(args.count, args.dim)
    own, ours = timed(lambda: by_difflab(real, fake))
    if args.skip_packages:
        print(f"2 x {args.count:,} images, d = {args.dim}: difflab {own:.1f} s")
    else:
        other, theirs = timed(lambda: by_packages(real, fake))
        print(
            f"2 x {args.count:,} images, d = {args.dim}: difflab {own:.1f} s, packages {other:.1f} s, ratio {other / own:.1f}"
        )
        for name in NAMES:
            print(f"| {name} | {ours[name]:.6g} | {theirs[name]:.6g} |")
    n = min(1000, args.count)
    pair = Pair(real[:n], fake[:n])
    value = METRICS["fd"].of(pair)
    seconds, drawn = timed(lambda: resampled(METRICS["fd"], pair, range(100), 0))
    low, high = interval(value, drawn)
    print(
        f"fd {value:.4g} [{low:.4g}, {high:.4g}], n = {n:,}, d = {args.dim}: 100 half-samples in {seconds:.1f} s"
    )
    print(
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB; {np.__version__=} {torch.__version__=}"
    )


if __name__ == "__main__":
    main()
